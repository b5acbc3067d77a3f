"""Real servers of both kinds, with servicers that tests give behaviour to."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
from services.rpc.server import Service, start, start_aio

KINDS = ("sync", "aio")
WAIT_S = 20.0


@contextmanager
def serving(kind: str, services: list[Service], port: int = 0, **given) -> Iterator[str]:
    """Serve with the synchronous or the asynchronous server; gives its address. `given`: credentials, guard."""
    if kind == "sync":
        bound = start(services, host="127.0.0.1", port=port, threads=8, insecure=False, **given)
        try:
            yield bound.address
        finally:
            bound.stop(0)
        return
    with loop_thread() as run:
        served = run(start_aio(services, host="127.0.0.1", port=port, insecure=False, **given))
        try:
            yield served.address
        finally:
            run(served.stop(0))


@contextmanager
def loop_thread():
    """A running event loop; gives what runs a coroutine on it and waits."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-loop")
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def services_of(runs=None, fleet=None, adapters=None, split=None) -> list[Service]:
    """The services whose servicer is given."""
    every = [
        (runs, run_pb2_grpc.add_RunServiceServicer_to_server, run_pb2, "RunService"),
        (fleet, fleet_pb2_grpc.add_FleetServiceServicer_to_server, fleet_pb2, "FleetService"),
        (adapters, adapter_pb2_grpc.add_AdapterServiceServicer_to_server, adapter_pb2, "AdapterService"),
        (split, split_pb2_grpc.add_SplitServiceServicer_to_server, split_pb2, "SplitService"),
    ]
    return [
        Service(servicer=servicer, add=add, descriptor=module.DESCRIPTOR.services_by_name[name])
        for servicer, add, module, name in every
        if servicer is not None
    ]


def failing(kind: str, error: Exception) -> list[Service]:
    """A service of each of gRPC's four kinds of call; each fails with `error`, streams after one answer."""

    class Runs(run_pb2_grpc.RunServiceServicer):
        def GetRun(self, request, context):
            raise error

    class Fleet(fleet_pb2_grpc.FleetServiceServicer):
        def WatchAssignment(self, request, context):
            yield fleet_pb2.WatchAssignmentResponse()
            raise error

    class Adapters(adapter_pb2_grpc.AdapterServiceServicer):
        def PushAdapter(self, request_iterator, context):
            list(request_iterator)
            raise error

    class Split(split_pb2_grpc.SplitServiceServicer):
        def Train(self, request_iterator, context):
            for _ in request_iterator:
                yield split_pb2.TrainResponse()
            raise error

    class AioRuns(run_pb2_grpc.RunServiceServicer):
        async def GetRun(self, request, context):
            raise error

    class AioFleet(fleet_pb2_grpc.FleetServiceServicer):
        async def WatchAssignment(self, request, context):
            yield fleet_pb2.WatchAssignmentResponse()
            raise error

    class AioAdapters(adapter_pb2_grpc.AdapterServiceServicer):
        async def PushAdapter(self, request_iterator, context):
            [message async for message in request_iterator]
            raise error

    class AioSplit(split_pb2_grpc.SplitServiceServicer):
        async def Train(self, request_iterator, context):
            async for _ in request_iterator:
                yield split_pb2.TrainResponse()
            raise error

    if kind == "sync":
        return services_of(Runs(), Fleet(), Adapters(), Split())
    return services_of(AioRuns(), AioFleet(), AioAdapters(), AioSplit())


def calls_of(channel) -> dict:
    """The four calls of `failing`, by kind; each runs to its end."""
    runs = run_pb2_grpc.RunServiceStub(channel)
    fleet = fleet_pb2_grpc.FleetServiceStub(channel)
    adapters = adapter_pb2_grpc.AdapterServiceStub(channel)
    split = split_pb2_grpc.SplitServiceStub(channel)
    return {
        "unary": lambda: runs.GetRun(run_pb2.GetRunRequest(), timeout=WAIT_S),
        "answers": lambda: list(fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(), timeout=WAIT_S)),
        "requests": lambda: adapters.PushAdapter(iter([adapter_pb2.PushAdapterRequest()]), timeout=WAIT_S),
        "both": lambda: list(split.Train(iter([split_pb2.TrainRequest()]), timeout=WAIT_S)),
    }
