"""What callers may hold of a server before its guard has seen them: connections that say nothing, calls at once."""

import socket
import ssl
import struct
import threading
import time
from contextlib import contextmanager

import grpc
import pytest
from certificates import Authority
from guarded_servers import THREADS, guarded
from rpc_servers import KINDS, WAIT_S, services_of, serving

from elsa.v1 import split_pb2, split_pb2_grpc
from services.doctor.shaking import OPENING
from services.rpc import server
from services.rpc.guard import Guard
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.rates import RateLimits, Rates
from services.rpc.tls import Own, server_credentials

kinds = pytest.mark.parametrize("kind", KINDS)
SETTINGS, MAX_CONCURRENT_STREAMS = 4, 3
CLOUD = Identity("cloud", "cloud")
OF_ONE_REQUEST = [
    "/elsa.v1.SplitService/Ping",
    "/elsa.v1.AdapterService/PullAdapter",
    "/grpc.health.v1.Health/Check",
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def credentials(authority):
    own = authority.issued(CLOUD)
    return server_credentials(Own(TlsFiles(ca=own.ca, certificate=own.certificate, key=own.key), "cloud"))


@kinds
def test_a_connection_that_says_nothing_is_closed(kind, credentials, monkeypatch):
    quick = [(name, 500 if "handshake" in name else value) for name, value in server.OPTIONS]
    assert quick != list(server.OPTIONS)
    monkeypatch.setattr(server, "OPTIONS", tuple(quick))
    with serving(kind, services_of(), credentials=credentials) as address:
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as silent:
            begin = time.monotonic()
            assert silent.recv(1) == b""
        assert time.monotonic() - begin < WAIT_S / 2


@kinds
def test_calls_of_one_connection_are_bounded_before_the_guard(kind, authority, credentials):
    """The server says so in its first frame, and its HTTP/2 refuses more."""
    guard = Guard("cloud", lambda _: False, Rates(RateLimits()))
    with serving(kind, services_of(), credentials=credentials, guard=guard) as address:
        told = settings_of(address, authority.issued(Identity("admin", "ops")))
    assert told[MAX_CONCURRENT_STREAMS] == server.MOST_STREAMS


def settings_of(address, issued):
    """What a server's first frame says, by the number of the setting (RFC 9113, 6.5)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(issued.certificate, issued.key)
    host, port = address.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), timeout=WAIT_S) as plain,
        context.wrap_socket(plain) as secure,
        secure.makefile("rb") as frames,
    ):
        secure.sendall(OPENING)
        size = int.from_bytes(frames.read(3), "big")
        assert frames.read(6)[0] == SETTINGS
        pairs = frames.read(size)
    return dict(struct.unpack(">HI", pairs[at : at + 6]) for at in range(0, size, 6))


def test_what_an_identity_may_have_open_fits_one_connection():
    assert dict(server.GUARDED)["grpc.max_concurrent_streams"] >= 2 * RateLimits().open_streams


def test_no_identity_holds_all_threads_of_an_edge(authority):
    """One that opens streams and says nothing in them is stopped in time; others are served."""
    streams = []
    with guarded("edge", authority) as edge:
        ann, bob = authority.issued(Identity("client", "ann")), authority.issued(Identity("client", "bob"))
        with edge.channel(ann) as greedy, edge.channel(bob) as other:
            stub = split_pb2_grpc.SplitServiceStub(greedy)
            held = threading.Event()
            opened = split_pb2.TrainRequest(open=split_pb2.TrainOpen(client_id="ann"))
            try:
                for _ in range(THREADS):
                    stream = stub.Train(held_open(opened, held), timeout=3 * WAIT_S)
                    streams.append(stream)
                    try:
                        next(stream)
                    except grpc.RpcError as error:
                        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                        assert "threads of this server, as many as it may" in error.details()
                        break
                assert 1 < len(streams) <= THREADS
                split_pb2_grpc.SplitServiceStub(other).Ping(split_pb2.PingRequest(), timeout=5)
            finally:
                held.set()
                for stream in streams:
                    stream.cancel()


def held_open(first, held):
    """A message, and then nothing until told."""
    yield first
    held.wait(3 * WAIT_S)


@contextmanager
def silent_calls(channel, method, count):
    """Calls that send no message."""
    held = threading.Event()
    calls = [channel.stream_stream(method)(silent(held), timeout=3 * WAIT_S) for _ in range(count)]
    try:
        yield calls
    finally:
        held.set()
        for call in calls:
            call.cancel()


def silent(held):
    held.wait(3 * WAIT_S)
    yield from ()


@pytest.mark.parametrize("method", OF_ONE_REQUEST)
def test_no_identity_holds_all_threads_of_an_edge_by_calls_without_their_request(authority, method):
    ann, bob = authority.issued(Identity("client", "ann")), authority.issued(Identity("client", "bob"))
    with guarded("edge", authority) as edge, edge.channel(ann) as greedy, edge.channel(bob) as other:
        stub = split_pb2_grpc.SplitServiceStub(other)
        with silent_calls(greedy, method, 3 * THREADS):
            while not edge.guard.refused["rate"]:
                stub.Ping(split_pb2.PingRequest(), timeout=5)
            stub.Ping(split_pb2.PingRequest(), timeout=5)


@pytest.mark.parametrize("method", OF_ONE_REQUEST)
def test_a_call_whose_request_does_not_come_is_ended_and_gives_its_thread_back(authority, method):
    ann = authority.issued(Identity("client", "ann"))
    with guarded("edge", authority, request_s=0.1) as edge, edge.channel(ann) as channel:
        assert all_are_ended(channel, method)
        while not all_are_ended(channel, method):  # a caller may hear of it before the thread is free
            pass


def all_are_ended(channel, method):
    """Whether as many calls as one may hold are taken, and ended since no request comes."""
    with silent_calls(channel, method, THREADS - 1) as calls:
        return {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("method", OF_ONE_REQUEST)
def test_a_call_is_judged_before_its_request_has_come(authority, method):
    ann = authority.issued(Identity("client", "ann"))
    with guarded("edge", authority) as edge, edge.channel(ann) as channel:
        edge.told.revoked.add(ann.serial)
        with silent_calls(channel, method, 1) as (call,):
            assert call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["/elsa.v1.SplitService/Ping", "/elsa.v1.AdapterService/PullAdapter"])
def test_a_role_that_may_not_call_is_refused_before_its_request_has_come(authority, method):
    other = authority.issued(Identity("edge", "edge-2"))
    with (
        guarded("edge", authority) as edge,
        edge.channel(other) as channel,
        silent_calls(channel, method, 1) as [call],
    ):
        assert call.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("method", OF_ONE_REQUEST)
def test_a_call_that_ends_without_its_request_is_told_so(authority, method, caplog):
    ann = authority.issued(Identity("client", "ann"))
    with guarded("edge", authority) as edge, edge.channel(ann) as channel:
        call = channel.stream_stream(method)(iter([]), timeout=WAIT_S)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "without its request" in call.details()
        assert not edge.told.reached
    assert not [record for record in caplog.records if record.name.startswith("grpc")]


def test_who_leaves_before_the_request_is_no_event(authority, caplog):
    ann = authority.issued(Identity("client", "ann"))
    with guarded("edge", authority) as edge, edge.channel(ann) as channel:
        with silent_calls(channel, OF_ONE_REQUEST[0], THREADS):
            while not edge.guard.refused["rate"]:
                pass
        split_pb2_grpc.SplitServiceStub(channel).Train(iter([]), timeout=WAIT_S).code()
    assert not [record for record in caplog.records if record.name.startswith("grpc")]


@pytest.mark.parametrize("capacity", [1, 2, 8, 64])
def test_one_client_may_still_use_all_sessions_of_an_edge(capacity):
    """With a stream, a pull and weights for each, as an edge reckons its threads."""
    threads = 3 * capacity + 8
    assert threads - min(server.KEPT_THREADS, threads // 4) >= 3 * capacity
