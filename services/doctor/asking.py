"""One call to a peer, as this machine's role would make it: what it answers tells of roles, clocks and versions.

The calls change nothing: an admin lists one run, an edge asks for an adapter and a client for probes of no run, a
client pings an edge. Others ask for the health of the service that it must offer.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from elsa.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    run_pb2,
    run_pb2_grpc,
    split_pb2,
    split_pb2_grpc,
)
from services.doctor.peer import Peer
from services.rpc.channel import connect
from services.rpc.identity import Role
from services.rpc.introduction import TIME_KEY, VERSION_KEY, introduced
from services.rpc.keypair import Keypair
from services.rpc.status import NAME_KEY
from services.rpc.tls import channel_credentials

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVED = {
    "cloud": fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
    "edge": split_pb2.DESCRIPTOR.services_by_name["SplitService"].full_name,
}
"""Whose health is asked for: another server of ELSA does not know the name."""
_TIME = re.compile(r"[0-9]{1,15}")
"""Milliseconds since 1970, for the next thirty thousand years."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a call.

    Attributes:
        code: of gRPC.
        error: the error of ours that the peer names; empty if none.
        version: of the peer; empty if it does not say.
        clock_s: by how much its clock is ahead of ours; None if it does not say.
        unsure_s: how wrong that may be: half the time that the call took.
        serving: False where it was asked for its health, and stops.
    """

    code: grpc.StatusCode
    text: str = ""
    error: str = ""
    version: str = ""
    clock_s: float | None = None
    unsure_s: float = 0.0
    serving: bool = True


@contextmanager
def channel_to(peer: Peer, keypair: Keypair | None) -> Iterator[grpc.Channel]:
    """A channel to whoever is at the peer's address and shows its name."""
    credentials = None if keypair is None else channel_credentials(keypair)
    with connect(peer.address, credentials, peer.host) as channel:
        yield channel


def ask(
    peer: Peer,
    role: Role,
    name: str,
    keypair: Keypair | None,
    timeout_s: float,
    clock: Callable[[], float] = time.time,
) -> Answer:
    """Call the peer as a `role` called `name`."""
    with channel_to(peer, keypair) as channel:
        begin_s, response = clock(), None
        try:
            response, end = _call(peer, role, name, channel)(timeout_s)
            code, text = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            end, code, text = error, error.code(), error.details() or ""
        end_s = clock()
        metadata = tuple(end.trailing_metadata() or ())
    told = introduced(metadata)
    stamp = told.get(TIME_KEY, "")
    return Answer(
        code=code,
        text=text,
        error=dict(metadata).get(NAME_KEY, ""),
        version=told.get(VERSION_KEY, ""),
        clock_s=int(stamp) / 1000 - (begin_s + end_s) / 2 if _TIME.fullmatch(stamp) else None,
        unsure_s=(end_s - begin_s) / 2,
        serving=not isinstance(response, health_pb2.HealthCheckResponse) or response.status == SERVING,
    )


def edges_of(peer: Peer, keypair: Keypair | None, timeout_s: float) -> list[fleet_pb2.RegisteredEdge]:
    """All edges that a cloud knows, for an admin. Raises grpc.RpcError."""
    found: list[fleet_pb2.RegisteredEdge] = []
    with channel_to(peer, keypair) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        while True:
            after = found[-1].edge_id if found else ""
            page = stub.ListEdges(fleet_pb2.ListEdgesRequest(after=after), timeout=timeout_s)
            found += page.edges
            if not page.more or not page.edges:
                return found


def _call(peer: Peer, role: Role, name: str, channel: grpc.Channel) -> Callable[[float], Any]:
    if peer.server == "edge":
        if role == "client":
            ping = split_pb2_grpc.SplitServiceStub(channel).Ping
            return lambda timeout_s: ping.with_call(split_pb2.PingRequest(), timeout=timeout_s)
    elif role == "admin":
        list_runs = run_pb2_grpc.RunServiceStub(channel).ListRuns
        return lambda timeout_s: list_runs.with_call(run_pb2.ListRunsRequest(page_size=1), timeout=timeout_s)
    elif role == "client":
        probes = fleet_pb2_grpc.FleetServiceStub(channel).GetProbes
        return lambda timeout_s: probes.with_call(fleet_pb2.GetProbesRequest(client_id=name), timeout=timeout_s)
    elif role == "edge":
        pull = adapter_pb2_grpc.AdapterServiceStub(channel).PullAdapter
        return lambda timeout_s: _to_its_end(pull(adapter_pb2.PullAdapterRequest(node_id=name), timeout=timeout_s))
    check = health_pb2_grpc.HealthStub(channel).Check
    asked = health_pb2.HealthCheckRequest(service=SERVED[peer.server])
    return lambda timeout_s: check.with_call(asked, timeout=timeout_s)


def _to_its_end(stream: Any) -> tuple[None, Any]:
    for _ in stream:
        pass
    return None, stream
