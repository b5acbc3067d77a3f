"""What is counted of a server's calls: each once, by how it ended, with its seconds and its bytes."""

import socket
import threading
import urllib.error
import urllib.request

import grpc
import pytest
from certificates import Authority
from guarded_servers import guarded
from hypothesis import given
from hypothesis import strategies as st
from rpc_servers import KINDS, WAIT_S, calls_of, failing, services_of, serving
from scraping import scraped

from elsa.errors import CapacityError, DrainingError, StaleRoundError
from elsa.v1 import fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc, split_pb2, split_pb2_grpc
from services.rpc.calls import CALL_S, Calls, Histogram
from services.rpc.identity import Identity
from services.rpc.metrics import MetricsListener, RefusalMetrics, registry_of
from services.rpc.probes import Readiness
from services.rpc.rates import RateLimits

kinds = pytest.mark.parametrize("kind", KINDS)


def samples(collector, name):
    """Values by labels of one metric."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == name
    }


class Runs(run_pb2_grpc.RunServiceServicer):
    def GetRun(self, request, context):
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id * 2))


class AioRuns(run_pb2_grpc.RunServiceServicer):
    async def GetRun(self, request, context):
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id * 2))


@kinds
def test_calls_that_are_answered_count_with_their_bytes_and_seconds(kind):
    calls, request = Calls(), run_pb2.GetRunRequest(run_id="some run")
    services = services_of(runs=Runs() if kind == "sync" else AioRuns())
    with serving(kind, services, calls=calls) as address, grpc.insecure_channel(address) as channel:
        answers = [run_pb2_grpc.RunServiceStub(channel).GetRun(request, timeout=WAIT_S) for _ in range(3)]
    assert samples(calls, "elsa_rpc_calls_total") == {("RunService.GetRun", "OK"): 3}
    assert samples(calls, "elsa_rpc_bytes_total") == {
        ("RunService.GetRun", "in"): 3 * request.ByteSize(),
        ("RunService.GetRun", "out"): 3 * answers[0].ByteSize(),
    }
    assert samples(calls, "elsa_rpc_seconds_count") == {("RunService.GetRun",): 3}
    assert samples(calls, "elsa_rpc_open") == {("RunService.GetRun",): 0}


@kinds
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StaleRoundError("late"), "FAILED_PRECONDITION"),
        (CapacityError("full"), "RESOURCE_EXHAUSTED"),
        (DrainingError("away"), "UNAVAILABLE"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
)
def test_calls_of_each_kind_that_fail_count_by_their_code(kind, error, code):
    calls = Calls()
    with serving(kind, failing(kind, error), calls=calls) as address, grpc.insecure_channel(address) as channel:
        for call in calls_of(channel).values():
            with pytest.raises(grpc.RpcError) as found:
                call()
            assert found.value.code().name == code
    assert samples(calls, "elsa_rpc_calls_total") == {
        (method, code): 1
        for method in (
            "RunService.GetRun",
            "FleetService.WatchAssignment",
            "AdapterService.PushAdapter",
            "SplitService.Train",
        )
    }
    assert set(samples(calls, "elsa_rpc_seconds_count")) == {("RunService.GetRun",)}


@kinds
def test_a_stream_counts_as_open_and_as_cancelled_once_its_caller_leaves(kind):
    calls, left = Calls(), threading.Event()

    class Fleet(fleet_pb2_grpc.FleetServiceServicer):
        def WatchAssignment(self, request, context):
            yield fleet_pb2.WatchAssignmentResponse()
            left.wait(WAIT_S)
            yield fleet_pb2.WatchAssignmentResponse()

    class AioFleet(fleet_pb2_grpc.FleetServiceServicer):
        async def WatchAssignment(self, request, context):
            while True:
                yield fleet_pb2.WatchAssignmentResponse()

    services = services_of(fleet=Fleet() if kind == "sync" else AioFleet())
    with serving(kind, services, calls=calls) as address, grpc.insecure_channel(address) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        stream = stub.WatchAssignment(fleet_pb2.WatchAssignmentRequest(), timeout=WAIT_S)
        next(stream)
        assert samples(calls, "elsa_rpc_open") == {("FleetService.WatchAssignment",): 1}
        stream.cancel()
        left.set()
    ended = samples(calls, "elsa_rpc_calls_total")
    assert ended == {("FleetService.WatchAssignment", "CANCELLED"): 1}, ended


@pytest.mark.parametrize("kind", ["cloud", "edge"])
def test_refusals_count_by_their_reason(kind, tmp_path):
    authority = Authority(tmp_path)
    with guarded(kind, authority, RateLimits(calls_per_s=0.001, calls_burst=1)) as server:
        asked = [
            (authority.issued(None), ["UNAUTHENTICATED"]),
            (authority.issued(Identity("admin", "ops")), ["PERMISSION_DENIED", "RESOURCE_EXHAUSTED"]),
            (authority.issued(Identity("client", "ann")), ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]),
        ]
        for files, codes in asked:
            with server.channel(files) as channel:
                assert [_code(kind, channel) for _ in codes] == codes
        counted = samples(RefusalMetrics(server.guard), "elsa_refused_total")
    assert counted == {("identity",): 1, ("permission",): 1, ("rate",): 3}


def _code(kind, channel):
    """The code of a call that clients may make, as ann."""
    fleet, split = fleet_pb2_grpc.FleetServiceStub(channel), split_pb2_grpc.SplitServiceStub(channel)
    try:
        if kind == "cloud":
            fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id="ann"), timeout=WAIT_S)
        else:
            split.Ping(split_pb2.PingRequest(), timeout=WAIT_S)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@given(st.lists(st.floats(0, 1e6)))
def test_a_histogram_counts_each_value_in_every_bucket_that_reaches_it(values):
    histogram = Histogram(CALL_S)
    for value in values:
        histogram.observe(value)
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in CALL_S]
    assert histogram.buckets() == [*expected, ("+Inf", len(values))]
    assert histogram.sum == sum(values)


@pytest.fixture
def listener():
    bound = MetricsListener("127.0.0.1", 0, registry_of("cloud", Readiness(), None, []))
    yield bound
    bound.close()


def test_who_asks_for_something_else_is_told_where_the_figures_are(listener):
    with pytest.raises(urllib.error.HTTPError, match="404") as found:
        urllib.request.urlopen(f"http://{listener.address}/", timeout=WAIT_S)
    with found.value as answer:
        assert b"/metrics" in answer.read()


def test_one_who_connects_and_is_silent_stops_nobody(listener):
    host, _, port = listener.address.rpartition(":")
    with socket.create_connection((host, int(port))):
        assert scraped(listener.address)
