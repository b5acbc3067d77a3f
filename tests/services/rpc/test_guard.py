"""Calls to real servers under TLS: who gets in, who does not, and with which status."""

import logging
import time

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from guarded_servers import calls_by, guarded, pushed
from rpc_servers import WAIT_S

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
from services.rpc.identity import Identity
from services.rpc.rates import RateLimits

KINDS = ("edge", "cloud")
MEMBER = {"edge": Identity("client", "mine"), "cloud": Identity("edge", "mine")}
"""Who may make every call of `calls_by`."""
STRANGER = {"edge": Identity("edge", "mine"), "cloud": Identity("admin", "mine")}
"""Who may make none of them, of the same name."""
EVERY_CALL = [("cloud", "unary"), ("cloud", "answers"), ("cloud", "requests")]
EVERY_CALL += [("edge", "answers"), ("edge", "requests"), ("edge", "both")]
SECRET = "nobody-may-read-this"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def refused(call):
    """The status of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def health(channel):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status


def reflected(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    return list(stub.ServerReflectionInfo(iter([request]), timeout=WAIT_S))


@pytest.mark.parametrize(("kind", "call"), EVERY_CALL)
def test_the_right_role_under_its_own_name_passes(authority, kind, call):
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        calls_by("mine", channel)[kind][call]()
        assert server.told.reached


@pytest.mark.parametrize(("kind", "call"), EVERY_CALL)
def test_the_wrong_role_is_denied_and_reaches_no_handler(authority, kind, call):
    with guarded(kind, authority) as server, server.channel(authority.issued(STRANGER[kind])) as channel:
        assert refused(calls_by("mine", channel)[kind][call]) is grpc.StatusCode.PERMISSION_DENIED
        assert not server.told.reached


@pytest.mark.parametrize(("kind", "call"), EVERY_CALL)
@pytest.mark.parametrize("name", ["another", ""])
def test_what_is_anothers_is_denied_and_reaches_no_handler(authority, kind, call, name):
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        assert refused(calls_by(name, channel)[kind][call]) is grpc.StatusCode.PERMISSION_DENIED
        assert not server.told.reached


def test_an_operator_submits_and_a_client_does_not(authority):
    with guarded("cloud", authority) as server:
        request = run_pb2.SubmitRunRequest(spec="name: x")
        for role, passes in (("admin", True), ("client", False), ("edge", False)):
            with server.channel(authority.issued(Identity(role, "mine"))) as channel:
                stub = run_pb2_grpc.RunServiceStub(channel)
                if passes:
                    assert stub.SubmitRun(request, timeout=WAIT_S).run_id
                else:
                    assert refused(lambda stub=stub: stub.SubmitRun(request, timeout=WAIT_S)) is (
                        grpc.StatusCode.PERMISSION_DENIED
                    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_message_of_a_stream_cannot_name_another(authority, kind):
    other = adapter_pb2.PushAdapterRequest(header=adapter_pb2.AdapterHeader(node_id="another"))
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        chunk = adapter_pb2.PushAdapterRequest(chunk={})
        assert stub.PushAdapter(pushed("mine", chunk, chunk), timeout=WAIT_S).stored
        assert refused(lambda: stub.PushAdapter(pushed("mine", chunk, other), timeout=WAIT_S)) is (
            grpc.StatusCode.PERMISSION_DENIED
        )
        assert server.told.reached == ["header", "chunk", "chunk", "header", "chunk"]


def test_a_client_reports_of_itself_alone(authority):
    report = adapter_pb2.ClientReport(client_id="another")
    header = adapter_pb2.AdapterHeader(node_id="mine", reports=[report])
    with guarded("edge", authority) as server, server.channel(authority.issued(MEMBER["edge"])) as channel:
        stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        requests = [adapter_pb2.PushAdapterRequest(header=header)]
        assert refused(lambda: stub.PushAdapter(iter(requests), timeout=WAIT_S)) is grpc.StatusCode.PERMISSION_DENIED
        later = adapter_pb2.PushAdapterRequest(reports=adapter_pb2.ClientReports(reports=[report]))
        assert refused(lambda: stub.PushAdapter(pushed("mine", later), timeout=WAIT_S)) is (
            grpc.StatusCode.PERMISSION_DENIED
        )


@pytest.mark.parametrize(("kind", "call"), EVERY_CALL)
def test_a_revoked_certificate_is_no_identity_on_a_connection_that_stands(authority, kind, call):
    files = authority.issued(MEMBER[kind])
    with guarded(kind, authority) as server, server.channel(files) as channel:
        calls = calls_by("mine", channel)[kind]
        calls[call]()
        server.told.revoked.add(files.serial)
        server.told.reached.clear()
        assert refused(calls[call]) is grpc.StatusCode.UNAUTHENTICATED
        assert refused(lambda: health(channel)) is grpc.StatusCode.UNAUTHENTICATED
        assert not server.told.reached
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        server.told.revoked.add(files.serial)
        calls_by("mine", channel)[kind][call]()  # a new certificate of the same name


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_that_runs_out_is_no_identity_on_a_connection_that_stands(authority, kind):
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        call = calls_by("mine", channel)[kind]["requests"]
        call()
        server.told.now = server.told.now.replace(year=server.told.now.year + 1)
        assert refused(call) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lacks", ["certificate", "authority", "time"])
def test_no_handshake_without_a_good_certificate_of_the_authority(authority, tmp_path, kind, lacks):
    strange = Authority(tmp_path).issued(MEMBER[kind])
    strange.ca.write_bytes(authority.ca.read_bytes())  # it trusts the server, but not the other way round
    over = authority.issued(MEMBER[kind], days=-1)
    files = {"certificate": authority.issued(MEMBER[kind]), "authority": strange, "time": over}[lacks]
    with guarded(kind, authority) as server, server.channel(files, bare=lacks == "certificate") as channel:
        assert refused(calls_by("mine", channel)[kind]["requests"]) is grpc.StatusCode.UNAVAILABLE
        assert not server.told.reached


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("uris", [[], ["elsa:client/mine", "elsa:edge/mine"], ["elsa:king/mine"], ["http://mine"]])
def test_a_certificate_without_just_one_identity_is_none(authority, kind, uris):
    files = authority.issued(None, uris=uris)
    with guarded(kind, authority) as server, server.channel(files) as channel:
        assert refused(calls_by("mine", channel)[kind]["requests"]) is grpc.StatusCode.UNAUTHENTICATED
        assert refused(lambda: health(channel)) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_calls_are_refused_and_others_are_not(authority, kind):
    limits = RateLimits(calls_per_s=0.01, calls_burst=3)
    other = Identity(MEMBER[kind].role, "other")
    with guarded(kind, authority, limits) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        for _ in range(3):
            assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match=r"mine calls more than 0\.01 times a second; ask again in") as caught:
            calls_by("mine", channel)[kind]["requests"]()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with server.channel(authority.issued(other)) as others:
            calls_by("other", others)[kind]["requests"]()


def test_messages_of_a_stream_that_come_too_fast_are_slowed_and_not_refused(authority):
    limits = RateLimits(request_bytes_per_s=4 << 20, request_bytes_burst=1 << 20)
    chunk = adapter_pb2.PushAdapterRequest(chunk={"data": bytes(1_000_000)})
    for kind in KINDS:
        with guarded(kind, authority, limits) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
            begin_s = time.monotonic()
            stored = adapter_pb2_grpc.AdapterServiceStub(channel).PushAdapter(
                pushed("mine", chunk, chunk, chunk), timeout=WAIT_S
            )
            assert stored.stored
            assert time.monotonic() - begin_s >= (3_000_000 - (1 << 20)) / (4 << 20)


def test_a_call_whose_message_comes_too_early_is_refused(authority):
    limits = RateLimits(request_bytes_per_s=1, request_bytes_burst=1 << 20)
    large = split_pb2.PingRequest(payload=bytes(600_000))
    with guarded("edge", authority, limits) as server, server.channel(authority.issued(MEMBER["edge"])) as channel:
        stub = split_pb2_grpc.SplitServiceStub(channel)
        stub.Ping(large, timeout=WAIT_S)
        assert refused(lambda: stub.Ping(large, timeout=WAIT_S)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.told.reached == ["Ping"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["admin", "edge", "client"])
def test_health_answers_all_and_reflection_admins(authority, kind, role):
    with guarded(kind, authority) as server, server.channel(authority.issued(Identity(role, "mine"))) as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        if role == "admin":
            assert reflected(channel)[0].list_services_response.service
        else:
            assert refused(lambda: reflected(channel)) is grpc.StatusCode.PERMISSION_DENIED


def test_health_is_watched_at_a_cloud_and_not_at_an_edge(authority):
    for kind in KINDS:
        with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            if kind == "cloud":
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
                watch.cancel()
            else:
                assert refused(lambda watch=watch: next(watch)) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_the_server_lacks_is_unimplemented(authority, kind):
    with guarded(kind, authority) as server, server.channel(authority.issued(MEMBER[kind])) as channel:
        call = channel.unary_unary("/elsa.v1.FleetService/Forget")
        assert refused(lambda: call(b"", timeout=WAIT_S)) is grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_is_logged_with_who_and_what_and_nothing_that_was_sent(authority, caplog):
    caplog.set_level(logging.DEBUG)
    with guarded("cloud", authority) as server, server.channel(authority.issued(MEMBER["cloud"])) as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        request = fleet_pb2.HeartbeatRequest(node_id=SECRET, progress=[fleet_pb2.Progress(activity=SECRET)])
        assert refused(lambda: fleet.Heartbeat(request, timeout=WAIT_S)) is grpc.StatusCode.PERMISSION_DENIED
    ours = [record.getMessage() for record in caplog.records if record.name == "services.rpc.guard"]
    assert ours == [
        "refused edge mine: /elsa.v1.FleetService/Heartbeat: it may not call this, or not under that name"
    ]
    assert SECRET not in caplog.text


def test_whoever_is_refused_all_the_time_does_not_fill_the_log(authority, caplog):
    with guarded("cloud", authority) as server, server.channel(authority.issued(STRANGER["cloud"])) as channel:
        for _ in range(100):
            refused(calls_by("mine", channel)["cloud"]["unary"])
    assert 20 <= sum(record.name == "services.rpc.guard" for record in caplog.records) < 50
