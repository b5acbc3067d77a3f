"""Servers of both kinds: where they listen, what they tell of themselves, and how their errors travel."""

import asyncio
import logging
import socket
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rpc_servers import KINDS, WAIT_S, calls_of, failing, loop_thread, services_of, serving

from elsa.errors import (
    AddressError,
    CapacityError,
    ChecksumError,
    DrainingError,
    ElsaError,
    MalformedError,
    PeerError,
    SpecError,
    StaleRoundError,
    UnreachableError,
)
from elsa.v1 import run_pb2, run_pb2_grpc
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.rpc.channel import connect
from services.rpc.server import check_host, is_loopback, start, start_aio
from services.rpc.status import translated
from services.rpc.translating import MAX_TEXT_BYTES

kinds = pytest.mark.parametrize("kind", KINDS)
calls = pytest.mark.parametrize("call", ["unary", "answers", "requests", "both"])


class Runs(run_pb2_grpc.RunServiceServicer):
    def GetRun(self, request, context):
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id))


class AioRuns(run_pb2_grpc.RunServiceServicer):
    async def GetRun(self, request, context):
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id))


def services(kind):
    return services_of(runs=Runs() if kind == "sync" else AioRuns())


@pytest.fixture
def channel_to():
    opened = []

    def connect_to(address):
        opened.append(connect(address))
        return opened[-1]

    yield connect_to
    for channel in opened:
        channel.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "::1", "[::1]"])
def test_loopback_needs_no_leave(host):
    assert is_loopback(host)
    check_host(host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", ""])
def test_off_loopback_is_refused_unless_spelled_out(host):
    assert not is_loopback(host)
    with pytest.raises(AddressError, match="--insecure"):
        check_host(host, insecure=False)
    with pytest.raises(AddressError, match="--insecure"):
        start([], host=host, port=0, threads=1, insecure=False)
    check_host(host, insecure=True)


def test_a_port_that_is_taken_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"^cannot listen on 127.0.0.1:{port}: .*--port$") as found:
            start([], host="127.0.0.1", port=port, threads=1, insecure=False)
        assert "\n" not in str(found.value)
        with loop_thread() as run, pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1:{port}"):
            run(start_aio([], host="127.0.0.1", port=port, insecure=False))


@kinds
def test_two_servers_never_share_a_port(kind):
    with serving(kind, services(kind)) as address, pytest.raises(AddressError):  # noqa: SIM117
        with serving(kind, services(kind), port=int(address.rpartition(":")[2])):
            pass


def test_an_ipv6_address_is_written_with_brackets():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    bound = start(services("sync"), host="::1", port=0, threads=2, insecure=False)
    try:
        assert bound.address.startswith("[::1]:") and not bound.address.endswith(":0")
    finally:
        bound.stop(0)


@kinds
def test_a_call_is_answered(kind, channel_to):
    with serving(kind, services(kind)) as address:
        stub = run_pb2_grpc.RunServiceStub(channel_to(address))
        assert stub.GetRun(run_pb2.GetRunRequest(run_id="r"), timeout=WAIT_S).run.run_id == "r"


@kinds
def test_health_turns_from_serving_to_not_serving(kind, channel_to):
    with loop_thread() as run:
        if kind == "sync":
            bound = start(services(kind), host="127.0.0.1", port=0, threads=4, insecure=False)
        else:
            bound = run(start_aio(services(kind), host="127.0.0.1", port=0, insecure=False))
        stub = health_pb2_grpc.HealthStub(channel_to(bound.address))
        for name in ("", "elsa.v1.RunService"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert stub.Check(request, timeout=WAIT_S).status == health_pb2.HealthCheckResponse.SERVING
        bound.health.drain()
        for name in ("", "elsa.v1.RunService"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert stub.Check(request, timeout=WAIT_S).status == health_pb2.HealthCheckResponse.NOT_SERVING
        bound.stop(0) if kind == "sync" else run(bound.stop(0))


@kinds
def test_reflection_lists_the_services(kind, channel_to):
    with serving(kind, services(kind)) as address:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel_to(address))
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=WAIT_S)
        names = {service.name for service in answer.list_services_response.service}
    assert {"elsa.v1.RunService", "grpc.health.v1.Health"} <= names and "" not in names


@kinds
@calls
@pytest.mark.parametrize("error", [StaleRoundError, ChecksumError, SpecError, DrainingError, CapacityError])
def test_an_error_reaches_the_caller_with_its_text(kind, call, error, channel_to):
    with serving(kind, failing(kind, error("what happened, 7 ≠ 8\nand what to do"))) as address:
        with pytest.raises(error) as found, translated("peer"):
            calls_of(channel_to(address))[call]()
        assert type(found.value) is error
        assert str(found.value) == "what happened, 7 ≠ 8\nand what to do"


@kinds
@calls
def test_an_error_that_nobody_foresaw_is_logged_and_not_sent(kind, call, channel_to, caplog):
    with serving(kind, failing(kind, ZeroDivisionError("the secret"))) as address:
        with pytest.raises(grpc.RpcError) as found:
            calls_of(channel_to(address))[call]()
        assert found.value.code() is grpc.StatusCode.INTERNAL
        assert found.value.details() == "internal error; see the server's log"
        assert "secret" not in str(found.value.trailing_metadata())
    (record,) = [record for record in caplog.records if record.name == "services.rpc.translating"]
    assert record.levelno == logging.ERROR and "the secret" in caplog.text


@kinds
def test_a_call_that_is_not_offered_is_unimplemented_and_no_fault(kind, channel_to, caplog):
    with serving(kind, services(kind)) as address, pytest.raises(grpc.RpcError) as found:
        run_pb2_grpc.RunServiceStub(channel_to(address)).CancelRun(run_pb2.CancelRunRequest(), timeout=WAIT_S)
    assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "a call failed" not in caplog.text


@kinds
def test_what_a_library_does_not_implement_is_a_fault(kind, channel_to, caplog):
    with serving(kind, failing(kind, NotImplementedError("aten::some_operator"))) as address:
        call = calls_of(channel_to(address))["unary"]
        with pytest.raises(grpc.RpcError) as found:
            call()
    assert found.value.code() is grpc.StatusCode.INTERNAL
    assert "aten::some_operator" in caplog.text


@kinds
@pytest.mark.parametrize("letter", ["x", "\n", "ö", "語"])
def test_a_text_of_any_length_arrives_shortened(kind, letter, channel_to):
    with serving(kind, failing(kind, MalformedError("some.field: " + letter * 50_000))) as address:
        call = calls_of(channel_to(address))["unary"]
        with pytest.raises(MalformedError, match=r"some\.field") as found, translated("peer"):
            call()
    assert str(found.value).endswith("…") and len(str(found.value).encode()) <= MAX_TEXT_BYTES + 4


@kinds
def test_a_message_above_the_limit_is_refused(kind, channel_to):
    with serving(kind, services(kind)) as address:
        request = run_pb2.GetRunRequest(run_id="r" * MAX_MESSAGE_BYTES)
        with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as careless:
            with pytest.raises(grpc.RpcError) as found:
                run_pb2_grpc.RunServiceStub(careless).GetRun(request, timeout=WAIT_S)
            assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(CapacityError, match="larger than max"), translated("peer"):  # before it leaves
            run_pb2_grpc.RunServiceStub(channel_to(address)).GetRun(request, timeout=WAIT_S)


@kinds
def test_an_answer_above_the_limit_is_refused(kind):
    with serving(kind, services(kind)) as address:
        request = run_pb2.GetRunRequest(run_id="r" * (MAX_MESSAGE_BYTES - 4))  # its answer is a little longer
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as found:
            run_pb2_grpc.RunServiceStub(channel).GetRun(request, timeout=WAIT_S)
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_server_that_is_gone_is_unreachable(channel_to):
    with serving("sync", services("sync")) as address:
        pass
    with pytest.raises(UnreachableError, match=r"^edge-1 does not answer; check that it runs"), translated("edge-1"):
        run_pb2_grpc.RunServiceStub(channel_to(address)).GetRun(run_pb2.GetRunRequest(), timeout=WAIT_S)


def test_a_caller_s_deadline_is_told_as_such(channel_to):
    release = threading.Event()

    class Stuck(run_pb2_grpc.RunServiceServicer):
        def GetRun(self, request, context):
            release.wait(WAIT_S)
            return run_pb2.GetRunResponse()

    with serving("sync", services_of(runs=Stuck())) as address:
        with pytest.raises(UnreachableError, match=r"^edge-1 did not answer in time"), translated("edge-1"):
            run_pb2_grpc.RunServiceStub(channel_to(address)).GetRun(run_pb2.GetRunRequest(), timeout=0.1)
        release.set()


def test_an_error_of_ours_that_means_a_fault_is_a_peer_s_failure(channel_to):
    with serving("sync", failing("sync", ElsaError("the text"))) as address:
        call = calls_of(channel_to(address))["unary"]
        with pytest.raises(PeerError, match=r"^peer failed \(INTERNAL\): the text"), translated("peer"):
            call()


def test_a_stopped_server_leaves_no_thread(channel_to):
    before = set(threading.enumerate())
    bound = start(services("sync"), host="127.0.0.1", port=0, threads=4, insecure=False)
    run_pb2_grpc.RunServiceStub(channel_to(bound.address)).GetRun(run_pb2.GetRunRequest(), timeout=WAIT_S)
    workers = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("rpc")]
    assert workers
    bound.stop(0)
    for worker in workers:
        worker.join(WAIT_S)
        assert not worker.is_alive()


def test_an_asynchronous_handler_that_is_cancelled_is_not_a_fault(channel_to, caplog):
    begun, ended = threading.Event(), threading.Event()

    class Patient(run_pb2_grpc.RunServiceServicer):
        async def GetRun(self, request, context):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    with serving("aio", services_of(runs=Patient())) as address:
        call = run_pb2_grpc.RunServiceStub(channel_to(address)).GetRun.future(run_pb2.GetRunRequest(), timeout=WAIT_S)
        assert begun.wait(WAIT_S)
        call.cancel()
        assert ended.wait(WAIT_S)
    assert "a call failed" not in caplog.text
