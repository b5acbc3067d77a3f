"""The engine when steps go wrong: a run that was cancelled meanwhile, a full disk."""

import asyncio
import logging

import pytest

from elsa.errors import CapacityError
from services.cloud.changes import Changes
from services.cloud.engine import Engine
from services.cloud.lifecycle import RunState
from services.cloud.records import Run
from services.cloud.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'elsa.db'}")
    with store.transaction() as transaction:
        state = RunState.PENDING
        transaction.put(Run(run_id="a-1", number=1, name="a", state=state, spec="", rounds=1, created_unix_s=0.0))
    yield store
    store.close()


class Schedule:
    """Steps that do what was scheduled, one after the other, and then nothing."""

    def __init__(self, *acts):
        self._acts = list(acts)

    async def take(self, run_id, now):
        if self._acts:
            self._acts.pop(0)()
        return False


def state_of(store):
    with store.transaction() as transaction:
        return transaction.run("a-1")


def test_fault_of_a_run_that_was_cancelled_meanwhile_changes_nothing(store):
    def cancelled():
        engine.end("a-1", RunState.CANCELLED, 1.0, "by an operator")
        raise CapacityError("no room")

    engine = Engine(store, Schedule(cancelled), Changes(), clock=lambda: 2.0)
    asyncio.run(engine.advance("a-1", 2.0))
    assert (state_of(store).state, state_of(store).reason) == (RunState.CANCELLED, "by an operator")


def test_full_disk_is_one_line_and_tried_again_after_growing_pauses(store, caplog):
    pauses, done = [], []

    def full():
        raise OSError(28, "No space left on device")

    async def sleep(seconds):
        pauses.append(seconds)
        engine.kick("a-1")  # a tick that comes meanwhile starts nothing of its own

    async def drive():
        over = asyncio.Event()
        engine._steps = Schedule(full, full, full, lambda: (done.append(1), over.set()))
        engine.kick("a-1")
        await asyncio.wait_for(over.wait(), 20)
        await engine.close()

    engine = Engine(store, Schedule(), Changes(), clock=lambda: 2.0, sleep=sleep)
    with caplog.at_level(logging.WARNING):
        asyncio.run(drive())
    assert pauses[:3] == [1.0, 2.0, 4.0] and done == [1]
    lines = [record for record in caplog.records if "No space left" in record.getMessage()]
    assert len(lines) == 3 and not any(record.exc_info for record in lines)
    assert state_of(store).state is RunState.PENDING


def broken(text="a fault of the program"):
    raise ValueError(text)


def driven(store, *acts):
    """An engine whose run was kicked once for each act, the one before done each time."""

    async def drive():
        engine = Engine(store, Schedule(*acts), Changes(), clock=lambda: 2.0)
        for _ in acts:
            engine.kick("a-1")
            while "a-1" in engine._tasks:
                await asyncio.wait({engine._tasks["a-1"]})

    asyncio.run(drive())


def test_the_same_fault_of_the_program_three_times_in_a_row_fails_the_run(store, caplog):
    driven(store, broken, lambda: broken("in other words"))
    assert state_of(store).state is RunState.PENDING
    driven(store, broken, broken, broken)
    assert (state_of(store).state, state_of(store).reason) == (
        RunState.FAILED,
        "internal fault; see the cloud's log",
    )
    assert len([record for record in caplog.records if record.exc_info]) == 5  # each with its traceback


def test_other_faults_and_steps_that_go_well_between_begin_the_count_anew(store):
    def other():
        raise RuntimeError("another")

    driven(store, broken, broken, other, broken, broken, lambda: None, broken, broken)
    assert state_of(store).state is RunState.PENDING


def test_ended_runs_leave_no_locks(store):
    engine = Engine(store, Schedule(), Changes(), clock=lambda: 2.0)
    asyncio.run(engine.advance("a-1", 2.0))
    assert not engine._locks
