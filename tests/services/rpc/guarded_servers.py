"""Guarded servers of both kinds under TLS: an edge, which is synchronous, and a cloud, which is not."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
from certificates import Authority, Files
from rpc_servers import WAIT_S, loop_thread, services_of

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
from services.rpc.guard import Guard
from services.rpc.identity import Identity
from services.rpc.rates import RateLimits, Rates
from services.rpc.server import start, start_aio

THREADS = 4
LOOKED_THROUGH_S = 0.2
SERVERS = {"edge": Identity("edge", "edge-1"), "cloud": Identity("cloud", "cloud")}


@dataclass
class Told:
    """What reached the handlers, and what the guard is told of the time and of revocation."""

    reached: list = field(default_factory=list)
    revoked: set = field(default_factory=set)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A server with a guard, and how to reach it."""

    kind: str
    address: str
    told: Told
    guard: Guard

    @contextmanager
    def channel(self, files: Files, *, bare: bool = False) -> Iterator[grpc.Channel]:
        """A channel to it with a certificate, or with none."""
        own = (None, None) if bare else (files.key_pem, files.certificate_pem)
        credentials = grpc.ssl_channel_credentials(files.ca_pem, *own)
        options = [("grpc.ssl_target_name_override", SERVERS[self.kind].host)]
        with grpc.secure_channel(self.address, credentials, options) as channel:
            yield channel


@contextmanager
def guarded(kind: str, authority: Authority, limits: RateLimits | None = None, **given) -> Iterator[Guarded]:
    """An edge or a cloud whose handlers answer at once, but for streams that stay open until told otherwise."""
    told = Told()
    rates = Rates(limits or RateLimits())
    guard = Guard(
        kind, told.revoked.__contains__, rates, lambda: told.now, looked_through_s=LOOKED_THROUGH_S, **given
    )
    own = authority.issued(SERVERS[kind])
    config = grpc.ssl_server_certificate_configuration([(own.key_pem, own.certificate_pem)], own.ca_pem)
    credentials = grpc.dynamic_ssl_server_credentials(config, lambda: config, require_client_authentication=True)
    with _edge(told, credentials, guard) if kind == "edge" else _cloud(told, credentials, guard) as address:
        yield Guarded(kind=kind, address=address, told=told, guard=guard)


@contextmanager
def _edge(told, credentials, guard):
    services = services_of(split=EdgeSplit(told), adapters=EdgeAdapters(told))
    bound = start(
        services,
        host="127.0.0.1",
        port=0,
        threads=THREADS,
        insecure=False,
        credentials=credentials,
        guard=guard,
    )
    try:
        yield bound.address
    finally:
        bound.stop(0)


@contextmanager
def _cloud(told, credentials, guard):
    services = services_of(fleet=CloudFleet(told), runs=CloudRuns(told), adapters=CloudAdapters(told))
    with loop_thread() as run:
        bound = run(
            start_aio(services, host="127.0.0.1", port=0, insecure=False, credentials=credentials, guard=guard)
        )
        try:
            yield bound.address
        finally:
            run(bound.stop(0))


class EdgeSplit(split_pb2_grpc.SplitServiceServicer):
    def __init__(self, told):
        self._told = told

    def Ping(self, request, context):
        self._told.reached.append("Ping")
        return split_pb2.PingResponse()

    def Train(self, request_iterator, context):
        for request in request_iterator:
            self._told.reached.append(request.WhichOneof("message"))
            yield split_pb2.TrainResponse()


class EdgeAdapters(adapter_pb2_grpc.AdapterServiceServicer):
    def __init__(self, told):
        self._told = told

    def PushAdapter(self, request_iterator, context):
        for request in request_iterator:
            self._told.reached.append(request.WhichOneof("message"))
        return adapter_pb2.PushAdapterResponse(stored=True)

    def PullAdapter(self, request, context):
        for _ in range(request.version):
            self._told.reached.append("PullAdapter")
            yield adapter_pb2.PullAdapterResponse()


class CloudFleet(fleet_pb2_grpc.FleetServiceServicer):
    """A watch of the node `flooded` has no end of answers; others are silent after the first."""

    def __init__(self, told):
        self._told = told

    async def Heartbeat(self, request, context):
        self._told.reached.append("Heartbeat")
        return fleet_pb2.HeartbeatResponse()

    async def WatchAssignment(self, request, context):
        self._told.reached.append("WatchAssignment")
        yield fleet_pb2.WatchAssignmentResponse()
        while request.node_id == "flooded":
            yield fleet_pb2.WatchAssignmentResponse(assignments=[fleet_pb2.Assignment(spec="x" * 900_000)])
        await asyncio.Event().wait()


class CloudRuns(run_pb2_grpc.RunServiceServicer):
    def __init__(self, told):
        self._told = told

    async def SubmitRun(self, request, context):
        self._told.reached.append("SubmitRun")
        return run_pb2.SubmitRunResponse(run_id="r")


class CloudAdapters(adapter_pb2_grpc.AdapterServiceServicer):
    def __init__(self, told):
        self._told = told

    async def PushAdapter(self, request_iterator, context):
        async for request in request_iterator:
            self._told.reached.append(request.WhichOneof("message"))
        return adapter_pb2.PushAdapterResponse(stored=True)

    async def PullAdapter(self, request, context):
        for _ in range(request.version):
            self._told.reached.append("PullAdapter")
            yield adapter_pb2.PullAdapterResponse()


def pushed(name: str, *later: adapter_pb2.PushAdapterRequest) -> Iterator[adapter_pb2.PushAdapterRequest]:
    """The messages of a push by `name`."""
    return iter([adapter_pb2.PushAdapterRequest(header=adapter_pb2.AdapterHeader(node_id=name)), *later])


def calls_by(name: str, channel: grpc.Channel) -> dict:
    """One call of each kind, each of which says that `name` makes it; runs to its end."""
    fleet, split = fleet_pb2_grpc.FleetServiceStub(channel), split_pb2_grpc.SplitServiceStub(channel)
    adapters = adapter_pb2_grpc.AdapterServiceStub(channel)
    pull = adapter_pb2.PullAdapterRequest(node_id=name, version=3)
    opened = split_pb2.TrainRequest(open=split_pb2.TrainOpen(client_id=name))
    beat = fleet_pb2.HeartbeatRequest(node_id=name)
    return {
        "cloud": {
            "unary": lambda: fleet.Heartbeat(beat, timeout=WAIT_S),
            "answers": lambda: list(adapters.PullAdapter(pull, timeout=WAIT_S)),
            "requests": lambda: adapters.PushAdapter(pushed(name), timeout=WAIT_S),
        },
        "edge": {
            "answers": lambda: list(adapters.PullAdapter(pull, timeout=WAIT_S)),
            "requests": lambda: adapters.PushAdapter(pushed(name), timeout=WAIT_S),
            "both": lambda: list(split.Train(iter([opened]), timeout=WAIT_S)),
        },
    }
