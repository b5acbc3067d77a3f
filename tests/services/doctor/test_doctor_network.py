"""Names and ports: what does not resolve, refuses, or is silent is told apart, each in bounded time."""

import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.doctor.bounded import within
from services.doctor.network import proxied, reach, resolve
from services.doctor.peer import Peer

LIMIT_S = 0.5


def at(address):
    return Peer(server="cloud", address=address)


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def blackhole():
    """A port that answers nothing: its queue is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for each in waiting:
            each.close()


def test_a_name_that_nobody_has_is_bad():
    found = resolve(at("no-such-host.invalid:7400"), 10)
    assert (found.finding.kind, found.finding.verdict, found.places) == ("name", "bad", ())
    assert "no-such-host.invalid does not resolve" in found.finding.what and found.finding.remedy


def test_a_resolver_that_is_silent_is_waited_for_so_long_alone():
    held = threading.Event()
    begin = time.monotonic()
    found = resolve(at("cloud.example:7400"), LIMIT_S, lambda *_, **__: held.wait(30))
    assert time.monotonic() - begin < 5
    held.set()
    assert found.finding.verdict == "bad" and "no answer from the resolver in 0.5 s" in found.finding.what


@pytest.mark.parametrize(
    "address", ["", "cloud", "cloud:", ":7400", "cloud:port", "cloud:0", "cloud:65536", "cloud:²"]
)
def test_what_is_no_address_is_said(address):
    found = resolve(at(address), LIMIT_S)
    assert found.finding.verdict == "bad" and "is no address" in found.finding.what


def test_an_address_in_brackets_is_one_of_ipv6():
    assert at("[::1]:7400").place == ("::1", 7400)


def test_a_port_that_listens_is_good(listening):
    peer = at(f"127.0.0.1:{listening}")
    resolved = resolve(peer, 5)
    finding, place = reach(peer, resolved.places, 5)
    assert (finding.verdict, place) == ("good", ("127.0.0.1", listening))


def test_one_address_that_answers_is_enough(listening):
    finding, place = reach(at("two"), [("127.0.0.2", 1), ("127.0.0.1", listening)], 5)
    assert (finding.verdict, place) == ("good", ("127.0.0.1", listening))


def test_a_closed_port_refuses(listening):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    finding, place = reach(at("closed"), [("127.0.0.1", port)], 5)
    assert (finding.kind, finding.verdict, place) == ("port", "bad", None)
    assert "refuses connections" in finding.what and "start the server" in finding.remedy


def test_a_silent_port_is_waited_for_so_long_alone(blackhole):
    begin = time.monotonic()
    finding, place = reach(at("blackhole"), [("127.0.0.1", blackhole)], LIMIT_S)
    assert time.monotonic() - begin < 5
    assert (finding.verdict, place) == ("bad", None)
    assert "did not answer in 0.5 s" in finding.what and "firewalls" in finding.remedy


@pytest.mark.parametrize(
    "spared",
    [
        {},
        {"no_proxy": "other.example, 10.0.0.1"},
        {"no_proxy": "*"},
        {"no_grpc_proxy": "", "no_proxy": ".example"},
    ],
)
def test_a_proxy_is_told_without_its_password(spared):
    finding = proxied(at("cloud.example:7400"), {"https_proxy": "http://me:hunter2@proxy.example:3128", **spared})
    assert finding.verdict == "warn"
    assert "proxy.example:3128" in finding.what and "hunter2" not in str(finding)
    assert "no_proxy=cloud.example" in finding.remedy


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pa/ss@proxy", "proxy"),
        ("http://me:hunt#er2@proxy:1/path", "proxy:1"),
        ("http://me:hunt?er2@proxy", "proxy"),
        ("http://me:p@ss@proxy", "proxy"),
        ("http://[::1", "[::1"),
        ("HTTP://[::1]:3128/", "[::1]:3128"),
        ("http://", "of the environment"),
    ],
)
def test_of_a_url_that_is_odd_the_host_alone_is_shown(url, shown):
    assert (
        proxied(at("cloud.example:7400"), {"grpc_proxy": url}).what == f"calls go by the proxy {shown} (grpc_proxy)"
    )


@given(password=st.text(min_size=8))
def test_no_password_of_any_letters_is_shown(password):
    finding = proxied(at("cloud.example:7400"), {"http_proxy": f"http://me:{password}@proxy.example:3128"})
    assert finding.what == "calls go by the proxy proxy.example:3128 (http_proxy)"


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        ("cloud.example:7400", {}),
        ("cloud.example:7400", {"HTTPS_PROXY": "http://p:1"}),
        ("cloud.example:7400", {"https_proxy": "https://p:1"}),
        ("cloud.example:7400", {"https_proxy": "p:1"}),
        ("cloud.example:7400", {"https_proxy": "", "http_proxy": "http://p:1"}),
        ("cloud.example:7400", {"http_proxy": "http://p:1", "no_proxy": ".example,localhost"}),
        ("cloud.example:7400", {"http_proxy": "http://p:1", "no_proxy": "CLOUD.EXAMPLE"}),
        ("10.1.2.3:7400", {"http_proxy": "http://p:1", "no_proxy": "x, 10.0.0.0/8 "}),
        ("10.1.2.3:7400", {"http_proxy": "http://p:1", "no_proxy": "10.9.9.9/8"}),
        ("[fd00::1]:7400", {"http_proxy": "http://p:1", "no_proxy": "fd00::/8"}),
        ("127.0.0.1:7400", {"http_proxy": "http://p:1"}),
        ("localhost:7400", {"http_proxy": "http://p:1"}),
    ],
)
def test_where_calls_take_no_proxy_nothing_is_said(address, environment):
    assert proxied(at(address), environment) is None


@pytest.mark.parametrize("spared", ["11.0.0.0/8", "10.0.0.0/99", "10.0.0.0/255.0.0.0", "fd00::/8", "/8", "10.0.0.0/"])
def test_a_network_that_is_another_or_none_spares_no_address(spared):
    assert proxied(at("10.1.2.3:7400"), {"http_proxy": "http://p:1", "no_proxy": spared}).verdict == "warn"


def test_what_is_waited_for_gives_its_result_or_its_error():
    assert within(5, lambda: 3) == 3
    with pytest.raises(OSError, match="gone"):
        within(5, lambda: (_ for _ in ()).throw(OSError("gone")))
