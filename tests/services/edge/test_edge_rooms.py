"""An edge promises each of its sessions to one run."""

import threading

import pytest

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
            results.append(rooms.promise(run_id, stop or threading.Event()))
        except DrainingError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(5)
    return thread, results


def test_runs_never_share_room():
    rooms, go = Rooms(8), threading.Event()
    assert rooms.promise("a", go) == 8
    thread, results = promised(rooms, "b")
    assert not results  # the first may bring anything from 1 to 8 clients
    rooms.settle("a", 3)
    thread.join(5)
    assert results == [5]
    rooms.settle("b", 5)
    with pytest.raises(CapacityError, match="all 8 sessions of this edge are promised to a, b"):
        rooms.promise("c", go)
    rooms.release("a")
    assert rooms.promise("c", go) == 3
    for run_id in ("b", "c", "never there"):
        rooms.release(run_id)
    assert rooms.promise("d", go) == 8


def test_an_enrolment_that_ends_gives_its_room_to_who_waits():
    rooms = Rooms(2)
    rooms.promise("a", threading.Event())
    thread, results = promised(rooms, "b")
    rooms.release("a")
    thread.join(5)
    assert results == [2]


def test_a_run_that_ends_waits_for_no_room():
    rooms, stop = Rooms(2), threading.Event()
    rooms.promise("a", threading.Event())
    thread, results = promised(rooms, "b", stop)
    stop.set()
    rooms.release("b")
    thread.join(5)
    assert isinstance(results[0], DrainingError)
