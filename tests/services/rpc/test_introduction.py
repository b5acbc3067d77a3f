"""What servers say of themselves: version and time at the end of every call, answered or refused."""

import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc_servers import KINDS, WAIT_S, calls_of, failing, services_of, serving

from elsa.errors import DrainingError, StaleRoundError
from elsa.v1 import fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc
from services.rpc.channel import connect
from services.rpc.introduction import TIME_KEY, VERSION_KEY, Introduction, introduced, own_version

kinds = pytest.mark.parametrize("kind", KINDS)
NOON = 1_700_000_000.25
SAID = {VERSION_KEY: own_version(), TIME_KEY: "1700000000250"}


def at_noon(kind, services):
    return serving(kind, services, introduction=Introduction(lambda: NOON))


def watching(kind, answers):
    """A service whose watch gives so many answers."""

    class Fleet(fleet_pb2_grpc.FleetServiceServicer):
        def WatchAssignment(self, request, context):
            for _ in range(answers):
                yield fleet_pb2.WatchAssignmentResponse()

    class AioFleet(fleet_pb2_grpc.FleetServiceServicer):
        async def WatchAssignment(self, request, context):
            for _ in range(answers):
                yield fleet_pb2.WatchAssignmentResponse()

    return services_of(fleet=Fleet() if kind == "sync" else AioFleet())


def draining(kind, times):
    """A service that refuses so many calls as one that drains, and answers then."""
    left = [DrainingError("drains")] * times

    class Runs(run_pb2_grpc.RunServiceServicer):
        def GetRun(self, request, context):
            if left:
                raise left.pop()
            return run_pb2.GetRunResponse()

    class AioRuns(run_pb2_grpc.RunServiceServicer):
        async def GetRun(self, request, context):
            if left:
                raise left.pop()
            return run_pb2.GetRunResponse()

    return services_of(runs=Runs() if kind == "sync" else AioRuns())


@kinds
def test_an_answer_is_introduced(kind):
    with at_noon(kind, draining(kind, 0)) as address, connect(address) as channel:
        _, call = run_pb2_grpc.RunServiceStub(channel).GetRun.with_call(run_pb2.GetRunRequest(), timeout=WAIT_S)
        assert introduced(call.trailing_metadata()) == SAID
        _, call = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert introduced(call.trailing_metadata()) == SAID


@kinds
def test_a_stream_is_introduced(kind):
    with at_noon(kind, watching(kind, 2)) as address, connect(address) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        watch = stub.WatchAssignment(fleet_pb2.WatchAssignmentRequest(), timeout=WAIT_S)
        assert len(list(watch)) == 2
        assert introduced(watch.trailing_metadata()) == SAID


@kinds
def test_a_refusal_is_introduced(kind):
    with at_noon(kind, failing(kind, StaleRoundError("late"))) as address, connect(address) as channel:
        for name in ("unary", "requests"):
            with pytest.raises(grpc.RpcError) as refusal:
                calls_of(channel)[name]()
            assert introduced(refusal.value.trailing_metadata()) == SAID, name


@kinds
def test_calls_that_were_refused_for_now_are_still_made_again(kind):
    """gRPC makes none again of which it has seen initial metadata."""
    with at_noon(kind, draining(kind, 2)) as address, connect(address) as channel:
        run_pb2_grpc.RunServiceStub(channel).GetRun(run_pb2.GetRunRequest(), timeout=WAIT_S)


@kinds
def test_the_time_is_the_servers_own(kind):
    with serving(kind, draining(kind, 0)) as address, connect(address) as channel:
        before = int(time.time() * 1000)
        _, call = run_pb2_grpc.RunServiceStub(channel).GetRun.with_call(run_pb2.GetRunRequest(), timeout=WAIT_S)
        assert before <= int(introduced(call.trailing_metadata())[TIME_KEY]) <= time.time() * 1000
