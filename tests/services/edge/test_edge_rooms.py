"""An edge promises each of its sessions to one run."""

import contextlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import CapacityError, DrainingError
from services.edge.rooms import Rooms


def promised(rooms, run_id, stop=None):
    """A thread that asks for room, with what it got."""
    results, asked = [], threading.Event()
    real = rooms._changed.wait_for

    def wait_for(*given):
        asked.set()
        return real(*given)

    rooms._changed.wait_for = wait_for

    def run():
        try:
            results.append(rooms.promise(run_id, stop or threading.Event(), 9))
        except DrainingError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(5)
    return thread, results


def test_runs_never_share_room():
    rooms, go = Rooms(8), threading.Event()
    assert rooms.promise("a", go, 9) == 8
    thread, results = promised(rooms, "b")
    assert not results  # the first may bring anything from 1 to 8 clients
    rooms.settle("a", 3)
    thread.join(5)
    assert results == [5]
    rooms.settle("b", 5)
    with pytest.raises(CapacityError, match="all 8 sessions of this edge are promised to a, b"):
        rooms.promise("c", go, 9)
    rooms.release("a")
    assert rooms.promise("c", go, 9) == 3
    for run_id in ("b", "c", "never there"):
        rooms.release(run_id)
    assert rooms.promise("d", go, 9) == 8


def test_an_enrolment_that_ends_gives_its_room_to_who_waits():
    rooms = Rooms(2)
    rooms.promise("a", threading.Event(), 9)
    thread, results = promised(rooms, "b")
    rooms.release("a")
    thread.join(5)
    assert results == [2]


def test_a_run_that_ends_waits_for_no_room():
    rooms, stop = Rooms(2), threading.Event()
    rooms.promise("a", threading.Event(), 9)
    thread, results = promised(rooms, "b", stop)
    stop.set()
    rooms.release("b")
    thread.join(5)
    assert isinstance(results[0], DrainingError)


def test_clients_that_come_later_claim_what_is_free_and_no_more():
    rooms, go = Rooms(8), threading.Event()
    rooms.promise("a", go, 9)
    rooms.settle("a", 3)
    assert rooms.promise("b", go, 9) == 5
    rooms.settle("b", 2)
    rooms.settle("a", 5)  # two came from an edge that is gone
    assert rooms.promise("c", go, 9) == 1
    rooms.settle("a", 7)  # two more, for which there is no room
    rooms.settle("c", 1)
    with pytest.raises(CapacityError, match="promised to a, b, c"):
        rooms.promise("d", go, 9)
    rooms.release("b")  # what it gives back is theirs first
    with pytest.raises(CapacityError, match="promised to a, c"):
        rooms.promise("d", go, 9)
    rooms.settle("a", 1)
    assert rooms.promise("d", go, 9) == 6


RUNS = st.sampled_from("abcd")
ACTS = st.lists(st.tuples(st.sampled_from(["promise", "settle", "release"]), RUNS, st.integers(0, 9)), max_size=30)


def test_a_run_gets_no_more_room_than_there_is_memory_for():
    rooms, go = Rooms(8), threading.Event()
    assert rooms.promise("a", go, 3) == 3
    rooms.settle("a", 5)  # two came from an edge that is gone
    assert rooms.promise("b", go, 9) == 5


@given(st.integers(1, 8), ACTS, st.integers(1, 9))
def test_no_more_is_ever_promised_than_there_is(capacity, acts, most):
    rooms, nobody_waits = Rooms(capacity), threading.Event()
    settled = {}
    for act, run_id, clients in acts:
        if act == "promise" and run_id not in rooms._promised and not rooms._enrolling:
            with contextlib.suppress(CapacityError):
                rooms.promise(run_id, nobody_waits, most)
        elif act == "settle":
            rooms.settle(run_id, clients)
            settled[run_id] = clients
        elif act == "release":
            rooms.release(run_id)
            settled.pop(run_id, None)
        assert sum(rooms._promised.values()) <= capacity
        bounds = {run_id: min(wanted, rooms._most.get(run_id, wanted)) for run_id, wanted in settled.items()}
        assert all(promise <= rooms._most.get(run_id, 9) for run_id, promise in rooms._promised.items())
        short = [run_id for run_id, wanted in bounds.items() if rooms._promised[run_id] < wanted]
        assert not short or sum(rooms._promised.values()) == capacity
        assert all(rooms._promised[run_id] <= wanted for run_id, wanted in settled.items())
