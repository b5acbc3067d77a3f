"""How far away the edges are: a few pings to each, bounded in number and size."""

import logging
import statistics
import time
from collections.abc import Callable, Iterable

from elsa.errors import ElsaError
from elsa.v1 import fleet_pb2, split_pb2
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.rpc.channel import connect
from services.rpc.status import translated

log = logging.getLogger(__name__)

PINGS = 5
LARGE_BYTES = 256 * 1024
TIMEOUT_S = 5.0


def measure(
    edges: Iterable[fleet_pb2.EdgePeer], clock: Callable[[], float] = time.perf_counter
) -> list[fleet_pb2.LinkReport]:
    """Latency and throughput to each edge that answers; those that do not are left out, with a warning."""
    reports = []
    for edge in edges:
        try:
            reports.append(measure_one(edge, clock))
        except ElsaError as error:
            log.warning("%s", error)
    return reports


def measure_one(edge: fleet_pb2.EdgePeer, clock: Callable[[], float] = time.perf_counter) -> fleet_pb2.LinkReport:
    """Median of some empty pings, and the speed of a large one. Raises UnreachableError."""
    channel = connect(edge.address)
    try:
        stub = SplitServiceStub(channel)

        def ping(size: int) -> float:
            begin = clock()
            with translated(f"edge {edge.edge_id} at {edge.address}"):
                stub.Ping(split_pb2.PingRequest(payload=bytes(size), reply_bytes=size), timeout=TIMEOUT_S)
            return clock() - begin

        ping(0)  # connects
        latency = statistics.median(ping(0) for _ in range(PINGS))
        large = min(ping(LARGE_BYTES) for _ in range(2))
    finally:
        channel.close()
    throughput = 2 * LARGE_BYTES / max(large - latency, 1e-6)
    return fleet_pb2.LinkReport(edge_id=edge.edge_id, latency_ms=latency * 1e3, throughput=throughput)
