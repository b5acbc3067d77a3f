"""The listener for monitors: what those who only hold connections, or ask all the time, cost a role."""

import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry
from scraping import figure, scraped

from services.rpc import metrics
from services.rpc.metrics import MetricsListener, count

WAIT_S = 20.0


class Counting:
    """Counts how often it is read, and how many read it at once; waits while it is told to."""

    def __init__(self):
        self.reads = self.inside = self.most_inside = 0
        self.goes_on, self.fails = threading.Event(), False
        self.goes_on.set()

    def collect(self):
        self.reads += 1
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        assert self.goes_on.wait(WAIT_S)
        self.inside -= 1
        if self.fails:
            raise TimeoutError("nobody answers")
        yield count("elsa_reads", "Reads", self.reads)


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def listener(counting):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(counting)
    listener = MetricsListener("127.0.0.1", 0, registry)
    yield listener
    listener.close()


def connected(listener, source="127.0.0.1"):
    host, port = listener.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=WAIT_S, source_address=(source, 0))


def answering():
    """The threads that serve somebody."""
    return [each for each in threading.enumerate() if "process_request_thread" in each.name]


def is_closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_only_holds_connections_gets_few_and_leaves_the_others_theirs(listener):
    with ExitStack() as stack:
        held = [stack.enter_context(connected(listener, "127.0.0.2")) for _ in range(63)]
        assert all(is_closed(each) for each in held[metrics.OF_ONE_ADDRESS :])
        assert len(answering()) <= metrics.OF_ONE_ADDRESS
        assert figure(scraped(listener.address), "elsa_reads_total") == 1


@pytest.mark.parametrize("of", ["an address", "all"])
def test_one_connection_more_than_there_is_room_for_is_closed_at_once(listener, of):
    own, every = ["127.0.0.3"] * metrics.OF_ONE_ADDRESS, [f"127.0.1.{each + 1}" for each in range(metrics.MOST_OPEN)]
    held, last = {"an address": (own, own[0]), "all": (every, "127.0.0.3")}[of]
    with ExitStack() as stack:
        for number, address in enumerate(held):
            stack.enter_context(connected(listener, address))
            while len(answering()) <= number:
                pass
        more = stack.enter_context(connected(listener, last))
        more.settimeout(metrics.REQUEST_S / 2)  # and not since it lasts too long
        assert is_closed(more)
        assert len(answering()) == len(held)


def test_all_connections_together_are_bounded(listener):
    addresses = [f"127.0.0.{number}" for number in range(2, 20)]
    with ExitStack() as stack:
        held = [stack.enter_context(connected(listener, each)) for each in addresses for _ in range(2)]
        assert all(is_closed(each) for each in held[metrics.MOST_OPEN :])
        assert len(answering()) <= metrics.MOST_OPEN


def test_a_request_that_drips_is_ended_in_time(listener, monkeypatch):
    monkeypatch.setattr(metrics, "REQUEST_S", 0.3)
    with connected(listener) as slow:
        slow.settimeout(0.05)
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while time.monotonic() - begin < WAIT_S:
                slow.sendall(b"G")
                try:
                    if slow.recv(1) == b"":
                        raise ConnectionResetError("reset")
                except TimeoutError:
                    pass
        assert time.monotonic() - begin < WAIT_S / 4


def asking(listener, found):
    def ask():
        with urllib.request.urlopen(f"http://{listener.address}/metrics", timeout=WAIT_S) as answer:
            found.append(answer.read())

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_those_who_ask_at_once_share_one_reading(listener, counting):
    counting.goes_on.clear()
    found, threads = [], []
    threads.append(asking(listener, found))
    while not counting.inside:
        pass
    threads += [asking(listener, found) for _ in range(metrics.OF_ONE_ADDRESS - 1)]
    while len(answering()) < len(threads):
        pass
    counting.goes_on.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == len(threads)
    assert counting.most_inside == 1 and counting.reads <= 3


def test_what_is_told_was_read_after_it_was_asked_for(listener):
    assert [figure(scraped(listener.address), "elsa_reads_total") for _ in range(5)] == [1, 2, 3, 4, 5]


def test_figures_take_a_small_part_of_the_time_however_often_they_are_asked_for():
    now, slept = [100.0], []

    class Slow:
        def collect(self):
            now[0] += 0.02
            yield count("elsa_reads", "Reads", 1)

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Slow())
    told = metrics.Text(registry, clock=lambda: now[0], sleep=sleep)
    for _ in range(50):
        told()
        now[0] += 1e-6
    assert 50 * 0.02 / (now[0] - 100) < 0.06
    assert max(slept) <= metrics.LONGEST_PAUSE_S


def test_figures_that_cannot_be_had_are_an_error_in_the_log_and_are_asked_for_again(listener, counting, caplog):
    counting.fails = True
    with pytest.raises(urllib.error.HTTPError, match="503"):
        scraped(listener.address)
    counting.fails = False
    assert figure(scraped(listener.address), "elsa_reads_total") == 2
    assert "metrics could not be told" in caplog.text


def test_an_end_waits_for_nobody_who_is_silent(listener):
    with connected(listener):
        begin = time.monotonic()
        listener.close()
        assert time.monotonic() - begin < WAIT_S / 4
