"""The compute thread: what it says that work took, and how it is slowed for experiments."""

import threading

import pytest

from services.edge.worker import Worker
from services.rpc.pace import Pace


class Time:
    """A clock that moves when somebody computes or sleeps."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def pass_by(self, seconds):
        self.now_s += seconds


@pytest.fixture
def time():
    return Time()


def worker_of(time, pace="1"):
    return Worker(Pace.parse(pace), time, time.pass_by, time)


def test_seconds_of_work_are_its_own_and_not_those_that_it_waited(time):
    worker, go = worker_of(time), threading.Event()

    def first():
        go.wait(10)
        time.pass_by(5)

    one, other = worker.submit(first, 0), worker.submit(lambda: time.pass_by(2), 0)
    go.set()
    assert (one.result().wait_s, one.result().compute_s) == (0, 5)
    assert (other.result().wait_s, other.result().compute_s) == (5, 2)
    worker.stop()


def test_a_paced_thread_takes_and_counts_so_many_times_as_long_from_the_version_on(time):
    worker = worker_of(time, "2,3:4")
    took = {version: worker.run(lambda: time.pass_by(1), version) for version in (None, 0, 2, 3, 9)}
    assert [done.compute_s for done in took.values()] == [1, 2, 2, 4, 4]
    queued = worker.submit(lambda: time.pass_by(1), 0), worker.submit(lambda: None)
    queued[1].result()
    assert time.now_s == 1 + 2 + 2 + 4 + 4 + 2  # the thread itself slept: nobody else computes meanwhile
    worker.stop()


def test_work_that_fails_is_not_slowed_and_its_error_comes_through(time):
    worker = worker_of(time, "100")

    def fail():
        time.pass_by(1)
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        worker.run(fail, 0)
    assert time.now_s == 1
    worker.stop()
