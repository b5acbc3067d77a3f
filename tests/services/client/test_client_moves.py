"""A client whose assignment names another edge goes on there; what ends with the move ends nothing else."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from fleet_harness import write_rows
from split_harness import edge_server, first_adapter, spec_of

from elsa.errors import CapacityError, RoundGivenUpError, UnreachableError
from elsa.v1 import fleet_pb2
from services.client.driver import RunDriver
from services.client.patience import LONGEST_PAUSE_S, Patience
from services.client.settings import ClientSettings
from services.client.stay import Stay, Stays
from services.client.tally import Tally
from services.rpc.dial import LOOPBACK
from services.rpc.ledger import Ledger
from services.rpc.memory import usable_bytes

RUN = "tiny-1"
WARMUP, TRAINING = fleet_pb2.RUN_STATE_WARMUP, fleet_pb2.RUN_STATE_TRAINING


class Link:
    """The cloud as a client's driver sees it."""

    node_id = "ann"
    dialer = LOOPBACK

    def __init__(self):
        self.evaluated, self.refusals, self.progress = [], [], threading.Condition()
        self.activity = []
        self.runs = SimpleNamespace(ReportEvaluation=self._evaluation)

    def _evaluation(self, request, timeout):
        self.evaluated.append(request.evaluation.version)

    def patiently(self, call):
        return call()

    def report(self, progress):
        with self.progress:
            self.activity.append((progress.activity, progress.version, progress.edge_round, progress.step))
            self.progress.notify_all()

    def forget(self, run_id):
        pass

    def refuse(self, run_id, reason):
        self.refusals.append(reason)

    def wait_for(self, found):
        with self.progress:
            assert self.progress.wait_for(lambda: any(found(*told) for told in self.activity), 30)


def told(spec, edge_id, address, state=TRAINING):
    edges = [fleet_pb2.EdgePeer(edge_id=edge_id, address=address)]
    return fleet_pb2.Assignment(run_id=RUN, spec=spec.to_yaml(), state=state, edges=edges)


@contextmanager
def driving(spec, folder, **settings):
    """A client's driver of the run, ended at the end."""
    link = Link()
    given = {"name": "ann", "data": {"words": str(write_rows(folder / "ann.jsonl", 24, 1))}, "patience_s": 20}
    owners = ClientSettings(**{**given, **settings})
    ledger = Ledger(lambda: usable_bytes(owners.max_memory_mib))
    driver = RunDriver(RUN, spec.to_yaml(), settings=owners, link=link, ledger=ledger, tally=Tally())
    try:
        yield driver, link
    finally:
        driver.stop()
        driver.join(20)
        assert not driver._thread.is_alive() and not ledger._reserved


def close_round(run, edge, spec, place, deadline_s=30):
    """Close an edge round and open what follows, as the edge's driver does; who delivered."""
    version, edge_round = place
    part = run.rounds.close(deadline_s).parts.get(0)
    if part is None:
        return ()
    run.sessions.forget_round(RUN)
    if edge_round + 1 < spec.training.edge_rounds:
        run.rounds.open(version, edge_round + 1, part.adapter)
    else:
        edge.open_round(run, version + 1, part.adapter)
    return tuple(report.client for report in part.reports)


def test_a_client_goes_on_at_the_edge_that_its_assignment_names(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert)
    with edge_server() as here, edge_server() as there, driving(spec, tmp_path) as (driver, link):
        first, second = (edge.open_run(spec, first_adapter(spec), ["ann"]) for edge in (here, there))
        driver.update(told(spec, "edge-1", here.address))
        assert close_round(first, here, spec, (0, 0)) == ("ann",)
        link.wait_for(lambda activity, version, edge_round, step: edge_round == 1 and step)
        driver.update(told(spec, "edge-2", there.address))
        places = [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert [close_round(second, there, spec, place) for place in places] == [("ann",)] * 4
        driver.join(30)
        assert link.evaluated == [0, 1, 2]  # version 0 at the edge before, and not again
        assert not link.refusals


def test_a_client_that_waits_for_its_edge_leaves_it_at_once(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert)
    with edge_server() as here, edge_server() as there, driving(spec, tmp_path) as (driver, link):
        first = here.open_run(spec, first_adapter(spec), ["ann", "bob"])
        second = there.open_run(spec, first_adapter(spec), ["ann"])
        driver.update(told(spec, "edge-1", here.address))
        with first.rounds._changed:  # ann has delivered, and waits for bob
            assert first.rounds._changed.wait_for(
                lambda: "ann" in first.rounds._taken.updates and "ann" in first.rounds._waits.clients, 30
            )
        driver.update(told(spec, "edge-2", there.address))
        assert close_round(second, there, spec, (0, 0)) == ("ann",)
        assert not link.refusals


@pytest.mark.parametrize("patience_s", [0.001, 20])
def test_an_edge_that_is_gone_is_left_without_spending_patience(tiny_bert, tmp_path, patience_s):
    spec = spec_of(tiny_bert, training={"local_steps": 10_000})
    with edge_server() as there, driving(spec, tmp_path, patience_s=patience_s) as (driver, link):
        there.open_run(spec, first_adapter(spec), ["ann"])
        opened, real = threading.Event(), there.sessions.add
        there.sessions.add = lambda session: (real(session), opened.set())
        with edge_server() as here:
            here.open_run(spec, first_adapter(spec), ["ann"])
            driver.update(told(spec, "edge-1", here.address))
            link.wait_for(lambda activity, version, edge_round, step: step > 2)
            driver.update(told(spec, "edge-2", there.address))
        assert opened.wait(30)
        assert not link.refusals


def test_an_edge_that_comes_back_at_another_address_is_found_there(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert)
    with driving(spec, tmp_path) as (driver, link):
        with edge_server() as before:
            before.open_run(spec, first_adapter(spec), ["ann"])
            driver.update(told(spec, "edge-1", before.address))
            link.wait_for(lambda activity, *_: activity == "training")
        with edge_server() as after:
            run = after.open_run(spec, first_adapter(spec), ["ann"], version=1)
            driver.update(told(spec, "edge-1", after.address))
            assert close_round(run, after, spec, (1, 0)) == ("ann",)
            assert not link.refusals


def test_an_assignment_to_the_same_edge_interrupts_nothing(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert)
    with edge_server() as edge, driving(spec, tmp_path) as (driver, link):
        run = edge.open_run(spec, first_adapter(spec), ["ann"])
        opened, real = [], edge.sessions.add
        edge.sessions.add = lambda session: (opened.append(session), real(session))[1]
        driver.update(told(spec, "edge-1", edge.address))
        link.wait_for(lambda activity, version, edge_round, step: step)
        driver.update(told(spec, "edge-1", edge.address))
        assert close_round(run, edge, spec, (0, 0)) == ("ann",)
        assert len(opened) == 1


def test_an_edge_without_room_for_one_that_comes_is_asked_again_and_then_left(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert)
    with edge_server() as here, edge_server(capacity=1) as full, driving(spec, tmp_path, patience_s=0.5) as given:
        driver, link = given
        here.open_run(spec, first_adapter(spec), ["ann"])
        full.open_run(spec, first_adapter(spec), ["ann"])
        asked = []
        full.sessions.make_room = lambda *who: (asked.append(who), full_now())[1]
        driver.update(told(spec, "edge-1", here.address))
        link.wait_for(lambda activity, *_: activity == "training")
        driver.update(told(spec, "edge-2", full.address))
        driver.join(30)
        assert len(asked) > 1
        assert link.refusals == ["all 1 sessions are taken; gave up after 0.5 s"]


def full_now():
    raise CapacityError("all 1 sessions are taken")


def test_a_stay_that_is_over_makes_no_stubs():
    stay = Stay(fleet_pb2.EdgePeer(edge_id="edge-1", address="127.0.0.1:9"))
    stay.end()
    stay.end()
    with pytest.raises(RoundGivenUpError, match="edge-1"):
        stay.stubs()


def test_errors_of_a_stay_count_until_it_is_over():
    stays = Stays(RUN)
    stays.tell(told(spec_of("nowhere"), "edge-1", "127.0.0.1:9"))
    with pytest.raises(UnreachableError), stays.take(TRAINING):
        raise UnreachableError("the edge is gone")
    with stays.take(TRAINING) as stay:
        stays.tell(told(spec_of("nowhere"), "edge-2", "127.0.0.1:9"))
        assert stay.over.is_set()
        raise UnreachableError("the channel was closed")
    with stays.take(TRAINING) as stay:
        assert stay.edge.edge_id == "edge-2"
        stays.close()
        raise UnreachableError("the channel was closed")
    with pytest.raises(RoundGivenUpError):
        stays.wait(TRAINING)


def test_patience_begins_anew_with_each_success_and_ends_when_stopped():
    stop, waited, tries = threading.Event(), [], []
    stop.wait = lambda seconds: waited.append(seconds)

    def done():
        tries.append(len(tries))
        if len(tries) == 5:
            return False
        raise CapacityError(f"full at try {len(tries)}")

    with pytest.raises(CapacityError, match="full"):
        Patience(RUN, 2.0, stop).until(done)
    assert waited[:4] == waited[4:8] == [0.25, 0.5, 1.0, 2.0]
    assert max(waited) <= LONGEST_PAUSE_S
    stop.set()
    assert Patience(RUN, 2.0, stop).until(done) is False
