"""The link: its line keeps rate and order, bytes arrive as they were sent, and nothing of it stays."""

import math
import os
import resource
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import SpecError
from elsa.v1 import fleet_pb2, split_pb2, split_pb2_grpc
from services.client.links import measure_one
from services.rpc.server import Service, start
from services.testbed.link import Line, Link

FAST = 1e9
ARRIVALS = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100_000)), min_size=1, max_size=30)
RATES, DELAYS = st.floats(1, 1e9), st.floats(0, 10)


class Pings(split_pb2_grpc.SplitServiceServicer):
    def Ping(self, request, context):
        return split_pb2.PingResponse(payload=bytes(request.reply_bytes))


@contextmanager
def edge():
    add, descriptor = split_pb2_grpc.add_SplitServiceServicer_to_server, split_pb2.DESCRIPTOR
    service = Service(servicer=Pings(), add=add, descriptor=descriptor.services_by_name["SplitService"])
    server = start([service], host="127.0.0.1", port=0, threads=4, insecure=False)
    try:
        yield server.address
    finally:
        server.stop(0)


@contextmanager
def joined(latency_ms=0.0, up=FAST, down=FAST):
    """Both ends of a connection over a link: the client's and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = Link(f"127.0.0.1:{listener.getsockname()[1]}", latency_ms, up, down)
        with link as address, connected(address) as client, listener.accept()[0] as server:
            server.settimeout(20)
            yield client, server


def connected(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def received(end, count):
    got = bytearray()
    while len(got) < count and (data := end.recv(65536)):
        got += data
    return bytes(got)


def sending(end, data):
    thread = threading.Thread(target=end.sendall, args=(data,))
    thread.start()
    return thread


def arrivals_of(sent, rate, delay_s):
    line, now, times = Line(rate, delay_s), 0.0, []
    for after, size in sent:
        now += after
        times.append((now, size, line.due(size, now)))
    return times


@given(ARRIVALS, RATES, DELAYS)
def test_bytes_arrive_in_order_and_none_before_it_has_passed_and_travelled(sent, rate, delay_s):
    times = arrivals_of(sent, rate, delay_s)
    assert [due for *_, due in times] == sorted(due for *_, due in times)
    assert all(due >= (now + delay_s + size / rate) * (1 - 1e-12) for now, size, due in times)


@given(ARRIVALS, RATES, DELAYS)
def test_between_any_two_arrivals_no_more_passes_than_the_rate_allows(sent, rate, delay_s):
    times = arrivals_of(sent, rate, delay_s)
    for first in range(len(times)):
        passed = 0
        for _, size, due in times[first + 1 :]:
            passed += size
            assert due - times[first][2] >= passed / rate * (1 - 1e-9) - 1e-6


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=30), RATES, DELAYS)
def test_a_line_that_always_has_bytes_to_send_is_never_idle(sizes, rate, delay_s):
    last = arrivals_of([(0.0, size) for size in sizes], rate, delay_s)[-1][2]
    assert last == pytest.approx(sum(sizes) / rate + delay_s)


@given(DELAYS)
def test_an_infinite_rate_only_delays(delay_s):
    assert Line(math.inf, delay_s).due(10**9, 5.0) == 5.0 + delay_s


@given(RATES, DELAYS)
def test_what_is_held_is_the_bandwidth_delay_product_and_little_more(rate, delay_s):
    line = Line(rate, delay_s)
    assert line.held <= rate * (delay_s + 0.02)
    assert line.held <= 8 * 2**20
    assert 1024 <= line.chunk <= 65536


@pytest.mark.parametrize(("rate", "delay_s"), [(0, 0), (-1, 0), (math.nan, 0), (1, -1), (1, math.inf), (1, math.nan)])
def test_a_link_that_cannot_be_is_refused(rate, delay_s):
    with pytest.raises(SpecError, match="give a rate above 0 and a latency of 0 or more"):
        Line(rate, delay_s)


@pytest.mark.parametrize("rate", [2e6, math.inf])
def test_bytes_arrive_as_they_were_sent_both_ways_at_once(rate):
    there, back = os.urandom(300_000), os.urandom(200_000)
    with joined(3, rate, rate) as (client, server):
        threads = [sending(client, there), sending(server, back)]
        assert received(server, len(there)) == there
        assert received(client, len(back)) == back
        for thread in threads:
            thread.join()


def test_a_half_close_arrives_behind_the_bytes_and_leaves_the_other_way_open():
    with joined(2) as (client, server):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert received(server, 100) == b"question"
        server.sendall(b"answer")
        server.close()
        assert received(client, 100) == b"answer"


def test_a_sender_waits_for_a_peer_that_does_not_read():
    with joined(0, 1e8, 1e8) as (client, _):
        client.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100 * 2**20:
                sent += client.send(bytes(65536))
    assert sent < 50 * 2**20  # what the kernel's buffers of four sockets and the link hold


def test_connections_share_the_rate():
    rate, size = 1e6, 150_000
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = stack.enter_context(Link(f"127.0.0.1:{listener.getsockname()[1]}", 0, rate, FAST))
        clients = [stack.enter_context(connected(address)) for _ in range(2)]
        servers = [stack.enter_context(listener.accept()[0]) for _ in clients]
        begin = time.monotonic()
        threads = [sending(client, bytes(size)) for client in clients]
        assert [len(received(server, size)) for server in servers] == [size, size]
        assert time.monotonic() - begin >= 2 * size / rate * 0.95
        for thread in threads:
            thread.join()


def test_a_peer_that_breaks_the_connection_ends_the_other_side():
    with joined() as (client, server):
        reset(server)
        assert is_ended(client)


@pytest.mark.parametrize(("latency_ms", "rate"), [(0, FAST), (60, FAST), (0, 1e5)])
def test_what_was_sent_before_a_reset_arrives_and_then_the_reset_either_way(latency_ms, rate):
    data = os.urandom(10_000)
    for number in (0, 1):
        with joined(latency_ms, rate, rate) as ends:
            ends[0].sendall(b"!")
            assert received(ends[1], 1) == b"!"
            ends[number].sendall(data)
            reset(ends[number])
            other = ends[1 - number]
            assert received_until_reset(other) == data


def test_an_answer_still_arrives_where_what_the_client_goes_on_sending_has_no_receiver_any_more():
    answer = os.urandom(20_000)
    with joined(0, FAST, 1e5) as (client, server):
        client.sendall(b"question")
        assert received(server, 8) == b"question"
        server.sendall(answer)
        reset(server)
        client.sendall(bytes(100_000))  # is refused long before the answer has passed
        assert received_until_reset(client) == answer


def test_a_peer_that_goes_while_it_is_sent_to_resets_the_sender():
    with joined(20, FAST, FAST) as (client, server):
        server.close()
        assert client.recv(1) == b""
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                client.sendall(bytes(1000))


def reset(end):
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.close()


def received_until_reset(end):
    """What comes before the reset; a connection that ends otherwise is an error."""
    got = bytearray()
    with pytest.raises(ConnectionResetError):
        while data := end.recv(65536):
            got += data
    return bytes(got)


def test_a_link_that_runs_out_of_descriptors_says_so_and_takes_connections_later(monkeypatch):
    """It waits with one descriptor for who comes first, and may have it back at once for who comes next."""
    told = threading.Event()
    monkeypatch.setattr("services.testbed.link.ACCEPT_AGAIN_S", 0.01)
    monkeypatch.setattr("services.testbed.link.log.warning", lambda text, *_: "takes no" in text and told.set())
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        host, port = stack.enter_context(Link(f"127.0.0.1:{listener.getsockname()[1]}", 0, FAST, FAST)).split(":")
        listener.settimeout(20)
        with ExitStack() as early:
            clients = [early.enter_context(socket.socket()) for _ in range(50)]
            with no_more_descriptors():
                for client in clients:
                    client.connect((host, int(port)))
                    if told.wait(0.1):
                        break
            assert told.is_set()
        late = stack.enter_context(socket.create_connection((host, int(port))))
        late.sendall(b"2")
        while True:
            server = stack.enter_context(listener.accept()[0])
            if received(server, 1) == b"2":
                return


@contextmanager
def no_more_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_target_that_is_not_there_closes_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with Link(target, 0, FAST, FAST) as address, suppress(ConnectionResetError), connected(address) as client:
        assert is_ended(client)


def is_ended(end):
    """Wait until the other side has closed the connection, or has reset it since bytes were on their way."""
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def all_there_is():
    """Sockets of this process, and threads of links."""
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    threads = [thread.ident for thread in threading.enumerate() if thread.name.startswith("link")]
    return {str(link) for link in links if str(link).startswith("socket:")} | {*threads}


@pytest.mark.parametrize("latency_ms", [0, 60_000])
def test_closing_breaks_connections_and_leaves_no_thread_or_socket(latency_ms):
    before = all_there_is()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = Link(f"127.0.0.1:{listener.getsockname()[1]}", latency_ms, 1e5, 1e5)
        with link as address:
            client, server = connected(address), listener.accept()[0]
            with server:
                client.sendall(bytes(50_000))
        with client:
            assert is_ended(client)
    assert all_there_is() <= before


def test_a_client_measures_the_latency_of_its_link():
    with edge() as target:
        for latency_ms in (5.0, 40.0):
            with Link(target, latency_ms, FAST, FAST) as address:
                peer = fleet_pb2.EdgePeer(edge_id="edge", address=address)
                told = min(measure_one(peer).latency_ms for _ in range(3))
            assert latency_ms <= told <= latency_ms * 1.2 + 1


@pytest.mark.parametrize("mbit", [10, 100])
def test_a_client_measures_the_rate_of_its_link_each_way(mbit):
    rate = mbit * 1e6 / 8
    with edge() as target, Link(target, 4, rate, rate / 2) as address:
        peer = fleet_pb2.EdgePeer(edge_id="edge", address=address)
        told = [measure_one(peer) for _ in range(3)]
    assert max(report.up_bytes_per_s for report in told) == pytest.approx(rate, rel=0.15)
    assert max(report.down_bytes_per_s for report in told) == pytest.approx(rate / 2, rel=0.15)
