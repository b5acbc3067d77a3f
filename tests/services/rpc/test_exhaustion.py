"""What callers may hold of a server before its guard has seen them: connections that say nothing, calls at once."""

import socket
import ssl
import struct
import time

import pytest
from certificates import Authority
from rpc_servers import KINDS, WAIT_S, services_of, serving

from services.doctor.secure import OPENING
from services.rpc import server
from services.rpc.guard import Guard
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.rates import RateLimits, Rates
from services.rpc.tls import Own, server_credentials

kinds = pytest.mark.parametrize("kind", KINDS)
SETTINGS, MAX_CONCURRENT_STREAMS = 4, 3
CLOUD = Identity("cloud", "cloud")


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
