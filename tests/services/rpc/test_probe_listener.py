"""Probes: what is told to those who show no certificate, and that it is that alone."""

import os
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from http2_peer import HEADERS, Peer
from pydantic_settings import SettingsConfigDict
from rpc_servers import WAIT_S
from scraping import figure, scraped

from elsa.errors import AddressError
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.monitor_settings import MonitorSettings
from services.rpc.monitoring import Monitoring
from services.rpc.probes import OF_ONE_ADDRESS, REQUEST_S, STUCK_S, THREADS, Probes, Readiness
from services.rpc.tls import Own

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Given(MonitorSettings):
    model_config = SettingsConfigDict(env_prefix="ELSA_")


@pytest.fixture
def probes():
    readiness = Readiness()
    listener = Probes("127.0.0.1", 0, readiness)
    with grpc.insecure_channel(listener.address) as channel:
        yield listener, readiness, channel
    listener.close()


def asked(channel, name=""):
    request = health_pb2.HealthCheckRequest(service=name)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S).status


def test_a_role_lives_before_it_is_ready_and_while_it_drains(probes):
    _, readiness, channel = probes
    assert (asked(channel), asked(channel, "live")) == (NOT_SERVING, SERVING)
    readiness.begin()
    assert (asked(channel), asked(channel, "live")) == (SERVING, SERVING)
    readiness.end()
    assert (asked(channel), asked(channel, "live")) == (NOT_SERVING, SERVING)


def test_a_role_whose_loop_has_not_turned_for_minutes_does_not_live_until_it_turns_again(probes):
    _, readiness, channel = probes
    seconds = 0.0
    readiness._clock = lambda: seconds
    seconds = 10 * STUCK_S
    assert asked(channel, "live") == SERVING, "this one never said that it has a loop"
    readiness.turned()
    seconds += STUCK_S
    assert asked(channel, "live") == SERVING
    seconds += 1
    assert asked(channel, "live") == NOT_SERVING
    readiness.turned()
    assert asked(channel, "live") == SERVING


def test_what_drains_is_never_ready_again():
    readiness = Readiness()
    readiness.end()
    readiness.begin()
    assert not readiness.ready


CHECK = "/grpc.health.v1.Health/Check"


def test_calls_without_their_request_hold_up_no_probe(probes):
    """Of two on this machine, and of as many as it likes from one other address."""
    listener, _, channel = probes
    silent = grpc.insecure_channel(listener.address)
    held = threading.Event()
    calls = [silent.stream_unary(CHECK).future(nothing(held), timeout=WAIT_S) for _ in range(2)]
    with Peer(listener.address, source="127.0.0.2") as peer:
        for _ in range(3 * THREADS):
            peer.begin(CHECK)
        peer.until(HEADERS)  # one was refused
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(10):
            health.Check(health_pb2.HealthCheckRequest(service="live"), timeout=1)
    assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
    held.set()
    silent.close()


def nothing(held):
    held.wait(WAIT_S)
    yield from ()


def test_a_probe_without_its_request_ends_by_itself_and_gives_its_thread_back(probes):
    _, _, channel = probes
    held, began = threading.Event(), time.monotonic()
    calls = [channel.stream_unary(CHECK).future(nothing(held), timeout=WAIT_S) for _ in range(OF_ONE_ADDRESS)]
    assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
    assert time.monotonic() - began < 3 * REQUEST_S
    assert asked(channel, "live") == SERVING
    held.set()


def test_nothing_else_is_told(probes):
    _, _, channel = probes
    with pytest.raises(grpc.RpcError) as found:
        asked(channel, "elsa.v1.RunService")
    assert found.value.code() is grpc.StatusCode.NOT_FOUND
    health, calls = health_pb2_grpc.HealthStub(channel), []
    calls.append(lambda: list(health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)))
    calls.append(lambda: health.List(health_pb2.HealthListRequest(), timeout=WAIT_S))
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    calls.append(lambda: list(stub.ServerReflectionInfo(iter([ask]), timeout=WAIT_S)))
    for call in calls:
        with pytest.raises(grpc.RpcError) as found:
            call()
        assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_one_line_with_its_flag():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name in ("probe", "metrics"):
            monitoring = Monitoring(Given(**{f"{name}_port": port}), "edge", None, [])
            with pytest.raises(AddressError, match=f"^cannot listen on 127.0.0.1:{port}: .*--{name}-port$"):  # noqa: SIM117
                with monitoring:
                    pass


def test_what_was_begun_is_ended_where_the_other_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as lent:
        port, free = taken.getsockname()[1], lent.getsockname()[1]
        lent.close()
        with pytest.raises(AddressError), Monitoring(Given(probe_port=free, metrics_port=port), "edge", None, []):
            pass
        Probes("127.0.0.1", free, Readiness()).close()


def test_without_ports_nothing_listens(monkeypatch):
    monkeypatch.setenv("ELSA_PROBE_PORT", "")
    with Monitoring(Given(), "client", None, []) as monitoring:
        assert monitoring.probes is None and monitoring.metrics is None


def healthy(port):
    """What the containers' check says, and the seconds that it took."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "services.rpc.healthy"],
        env={**os.environ, "ELSA_PROBE_PORT": port},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr, time.monotonic() - begin


def test_the_check_of_containers_says_whether_a_role_is_ready(probes):
    listener, readiness, _ = probes
    port = listener.address.rpartition(":")[2]
    assert healthy(port)[:2] == (1, "not ready: not known to the cloud yet, or stopping\n")
    readiness.begin()
    assert healthy(port)[:2] == (0, "")


@pytest.mark.parametrize(("port", "said"), [("", "ELSA_PROBE_PORT is not set"), ("1", "127.0.0.1:1 does not answer")])
def test_the_check_of_containers_says_why_it_cannot_know(port, said):
    code, error, _ = healthy(port)
    assert code == 1 and error.startswith(said) and error.count("\n") == 1


def test_the_check_of_containers_imports_little():
    """It runs every few seconds beside a role on its own cores."""
    ours = "sorted(name for name in sys.modules if name.startswith(('elsa', 'services')))"
    code = f"import sys, services.rpc.healthy; print({ours})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['services', 'services.rpc', 'services.rpc.healthy']"


def test_every_role_tells_its_version_its_readiness_and_when_its_certificate_ends(tmp_path):
    files = Authority(tmp_path).issued(Identity("edge", "edge-1"), days=3)
    own = Own(TlsFiles(ca=files.ca, certificate=files.certificate, key=files.key), "edge", "edge-1")
    with Monitoring(Given(metrics_port=0), "edge", own, []) as monitoring:
        before = scraped(monitoring.metrics.address)
        monitoring.readiness.begin()
        after = scraped(monitoring.metrics.address)
    assert (figure(before, "elsa_ready"), figure(after, "elsa_ready")) == (0, 1)
    left_s = figure(after, "elsa_certificate_not_after_seconds") - time.time()
    assert 2.9 * 86400 < left_s <= 3 * 86400
    (labels,) = [dict(labels) for name, labels in after if name == "elsa_build_info"]
    assert labels["role"] == "edge" and labels["version"]
    assert figure(after, "process_open_fds") > 0
    assert not [name for name, _ in after if name.endswith("_created")]
