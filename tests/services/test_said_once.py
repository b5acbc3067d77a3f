"""What passes by itself is said once and not as a fault; who is told to stop does not say that a run has ended."""

import logging
import threading

import pytest
from prometheus_client import CollectorRegistry

from elsa.errors import NotFoundError, PeerError, PermissionDeniedError, UnreachableError
from elsa.v1.fleet_pb2 import Assignment
from services.client.patience import PASSING, Patience
from services.rpc.channel import patiently
from services.rpc.drivers import RunDrivers
from services.rpc.metrics import MetricsListener


class Driver:
    """Does nothing."""

    def start(self):
        pass

    def update(self, assignment):
        pass

    def stop(self):
        pass


class Told(threading.Event):
    """Is not set by waiting, and does not wait."""

    def wait(self, timeout=None):
        return self.is_set()


def said(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.fixture(autouse=True)
def _all_levels(caplog):
    caplog.set_level(logging.INFO)


def failing(*errors):
    left = [*errors]

    def call():
        if left:
            raise left.pop(0)
        return True

    return call


def test_a_run_that_is_taken_away_has_ended_and_one_of_a_node_that_stops_has_not(caplog):
    drivers = RunDrivers(lambda assignment: Driver())
    drivers.follow([[Assignment(run_id="a"), Assignment(run_id="b")], [Assignment(run_id="b")]])
    drivers.close()
    assert said(caplog) == [
        ("INFO", "run a has ended"),
        ("INFO", "run b: stops here; it has not ended"),
    ]


def test_an_edge_that_has_not_heard_yet_is_spoken_of_once_for_each_reason(caplog):
    unheard, refused = NotFoundError("is not at this edge"), PermissionDeniedError("is not assigned")
    assert Patience("r-1", 60, Told()).until(failing(unheard, unheard, refused, refused))
    assert said(caplog) == [
        ("INFO", "run r-1: not yet: is not at this edge; asks again for up to 60 s"),
        ("INFO", "run r-1: not yet: is not assigned; asks again for up to 59 s"),
    ]


@pytest.mark.parametrize("error", [UnreachableError("edge is away"), PeerError("edge is away")])
def test_an_edge_that_is_away_or_has_a_fault_is_a_warning_first_and_then_seldom(caplog, error):
    assert Patience("r-1", 120, Told()).until(failing(*[error] * 20))
    told = said(caplog)
    assert {level for level, _ in told} == {"WARNING"}
    assert [text.rpartition("up to ")[2] for _, text in told] == ["120 s", "107 s", "87 s", "47 s"]


@pytest.mark.parametrize("error", PASSING)
def test_what_did_not_pass_says_what_it_was_and_for_how_long_it_was_waited(error):
    with pytest.raises(error, match=r"^its disk fails; gave up after 60 s$"):
        Patience("r-1", 60, Told()).until(failing(*[error("its disk fails")] * 99))


def test_what_comes_of_stopping_is_not_said(caplog):
    stop = Told()

    def cut():
        stop.set()
        raise UnreachableError("the call was cancelled")

    assert not Patience("r-1", 60, stop).until(cut)
    with pytest.raises(UnreachableError, match="stopped while waiting"):
        patiently(cut, "cloud", limit_s=60, sleep=pytest.fail, stopped=stop.is_set)
    assert said(caplog) == []


def test_who_listens_to_all_says_so_in_the_line_that_says_where(caplog):
    for host in ("127.0.0.1", "0.0.0.0"):
        MetricsListener(host, 0, CollectorRegistry()).close()
    (own, all_of_them) = said(caplog)
    assert "everyone" not in own[1]
    assert all_of_them[0] == "INFO"
    assert "everyone who reaches that port: keep it within your own network" in all_of_them[1]
