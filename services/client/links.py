"""Where the edges are for this client, and how far away: a few pings to each, bounded in number and size."""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

from elsa.errors import ElsaError
from elsa.v1 import fleet_pb2, split_pb2
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.identity import Identity
from services.rpc.status import translated

log = logging.getLogger(__name__)

PINGS = 5
LARGE_BYTES = 256 * 1024
TIMEOUT_S = 5.0
LEAST_S = 1e-4
"""Of sending the large one: what is faster cannot be told from the wobble of the empty ones."""


def as_reached(assignment: fleet_pb2.Assignment, addresses: Mapping[str, str]) -> fleet_pb2.Assignment:
    """An assignment whose edges are at the addresses that this client's owner gave, where they gave any, by name."""
    reached = fleet_pb2.Assignment()
    reached.CopyFrom(assignment)
    for edge in reached.edges:
        edge.address = addresses.get(edge.edge_id, edge.address)
    return reached


def measure(
    edges: Iterable[fleet_pb2.EdgePeer],
    dialer: Dialer = LOOPBACK,
    clock: Callable[[], float] = time.perf_counter,
) -> list[fleet_pb2.LinkReport]:
    """Latency and throughput to each edge that answers; those that do not are left out, with a warning."""
    reports = []
    for edge in edges:
        try:
            reports.append(measure_one(edge, dialer, clock))
        except ElsaError as error:
            log.warning("%s", error)
    return reports


def measure_one(
    edge: fleet_pb2.EdgePeer, dialer: Dialer = LOOPBACK, clock: Callable[[], float] = time.perf_counter
) -> fleet_pb2.LinkReport:
    """Median of some empty pings, and the speed of large ones each way. Raises UnreachableError, AddressError."""
    channel = dialer.connect(edge.address, Identity("edge", edge.edge_id).host)
    try:
        stub = SplitServiceStub(channel)

        def ping(up: int, down: int) -> float:
            begin = clock()
            with translated(f"edge {edge.edge_id} at {edge.address}"):
                stub.Ping(split_pb2.PingRequest(payload=bytes(up), reply_bytes=down), timeout=TIMEOUT_S)
            return clock() - begin

        ping(0, 0)  # connects
        empty_s = [ping(0, 0) for _ in range(PINGS)]
        up_s, down_s = (min(ping(*sizes) for _ in range(2)) for sizes in ((LARGE_BYTES, 0), (0, LARGE_BYTES)))
    finally:
        channel.close()
    return fleet_pb2.LinkReport(
        edge_id=edge.edge_id,
        latency_ms=statistics.median(empty_s) * 1e3,
        up_bytes_per_s=LARGE_BYTES / max(up_s - min(empty_s), LEAST_S),
        down_bytes_per_s=LARGE_BYTES / max(down_s - min(empty_s), LEAST_S),
    )
