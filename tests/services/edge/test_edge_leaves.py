"""What an edge keeps on disk of a run that it leaves by itself, and what it does next of a version that was taken."""

import threading
from types import SimpleNamespace

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.errors import StaleRoundError, TakenError, UnreachableError
from elsa.v1 import adapter_pb2, fleet_pb2
from services.edge.cloud_rounds import CloudRounds
from services.edge.driver import RunDriver
from services.edge.rooms import Rooms
from services.edge.state import EdgeState
from services.rpc.ledger import Ledger


def test_nothing_is_kept_of_a_run_that_an_edge_left_by_itself(tiny_bert, tmp_path, monkeypatch):
    opened, left = RunDriver._open_round, []

    def failing(driver, run, pulled, adapter):
        if pulled.version:
            assert list(tmp_path.rglob("*.round")), "version 0 was kept"
            left.append(driver)
            raise RuntimeError("the test wants it")
        opened(driver, run, pulled, adapter)

    monkeypatch.setattr(RunDriver, "_open_round", failing)
    wants = {"fleet": {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}, "training": {"rounds": 3}}
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        run_id = whole.submit(spec_of(tiny_bert, **wants))
        *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_FAILED
        left[0].join(20)
        assert not left[0]._thread.is_alive() and not list(tmp_path.rglob("*.round"))


def driver_of(state):
    """A driver of no run, whose cloud cannot be told anything."""
    link = SimpleNamespace(stop=threading.Event(), adapters=None, node_id="edge-1", peer="cloud")
    link.refuse = lambda run_id, reason: False
    runs = SimpleNamespace(remove=lambda run_id, gone: None)
    parts = dict.fromkeys(("worker", "profiler", "shelf", "ledger"))
    return RunDriver("tiny-1", "", link=link, runs=runs, state=state, **parts)


def test_a_run_is_kept_that_the_cloud_does_not_know_to_be_left(tmp_path, monkeypatch):
    """As where the cloud is away for longer than the edge's patience: the edge ends, and is started again."""
    dropped = []
    monkeypatch.setattr(EdgeState, "drop", lambda state, run_id: dropped.append(run_id))
    driver_of(EdgeState(tmp_path, "edge-1"))._leave(UnreachableError("the cloud did not answer"))
    assert not dropped


@pytest.mark.parametrize(("answer", "goes_on"), [(TakenError("another"), True), (StaleRoundError("over"), False)])
def test_an_edge_goes_on_from_a_version_of_which_the_cloud_has_its_work(answer, goes_on):
    """Its clients would do it once more, for nothing."""

    def answering(call, *passing):
        raise answer

    link = SimpleNamespace(patiently=answering, adapters=None)
    assert CloudRounds("tiny-1", link, threading.Event()).push(adapter_pb2.AdapterHeader(), b"") is goes_on


class NoRounds:
    def admit(self, *said):
        pytest.fail("nobody is served any more")


def test_an_edge_that_has_left_a_run_takes_no_room_for_it_with_the_next_assignment(tmp_path):
    """As where the cloud could not be told, or an assignment was under way."""
    rooms, ledger, spec = Rooms(8), Ledger(lambda: 1000), spec_of("nowhere")
    driver = driver_of(EdgeState(tmp_path, "edge-1"))
    sessions = SimpleNamespace(capacity=8)
    driver._runs = SimpleNamespace(remove=lambda run_id, gone: rooms.release(run_id), rooms=rooms, sessions=sessions)
    driver._run = SimpleNamespace(rounds=NoRounds())
    driver._account, driver._begun = ledger.begin("tiny-1", spec), True
    driver._account.reserve(300)
    driver._fit = SimpleNamespace(sessions=8, promised=lambda clients: 100 * clients)
    rooms.promise("tiny-1", threading.Event(), 8)

    def enroll():
        raise UnreachableError("the cloud did not answer")

    driver._enroll = enroll
    driver._live()
    clients = ["ann", "bob", "cat", "dan"]
    driver.update(fleet_pb2.Assignment(run_id="tiny-1", state=fleet_pb2.RUN_STATE_TRAINING, client_ids=clients))
    assert rooms.promise("tiny-2", threading.Event(), 8) == 8
    assert ledger.reserved_bytes == 0
