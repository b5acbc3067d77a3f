"""An edge and its cloud: what it refuses and why, what it leaves behind, how it ends and comes back."""

import re
import threading
from types import SimpleNamespace

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.errors import DrainingError, SpecError
from elsa.model.segment import Segment
from elsa.v1 import fleet_pb2, run_pb2
from services.client.trainer import RoundTrainer
from services.edge import service as edge_service
from services.edge.cloud_rounds import CloudRounds
from services.edge.driver import RunDriver
from services.edge.service import Edge
from services.edge.settings import EdgeSettings
from services.edge.worker import Worker

WANTS = {"fleet": {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}}


def refusal(folder, spec, **settings):
    """What the cloud hears of an edge that cannot take part."""
    with system(folder) as whole:
        role = whole.edge("edge-1", **settings)
        whole.register_client("ann")
        run_id = whole.submit(spec)
        event = whole.wait(run_id, lambda e: e.node_joined.node_id == "edge-1", timeout=30)
        assert not event.node_joined.accepted
        assert not role.node._runs._runs
    return event.node_joined.detail


def test_too_little_memory_is_refused_with_both_figures(tiny_bert, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(edge_service, "usable_bytes", lambda max_memory_mib: max_memory_mib << 10)
    monkeypatch.setattr(Segment, "edge", lambda *given, **named: loaded.append(given))
    detail = refusal(tmp_path, spec_of(tiny_bert, **WANTS), max_memory_mib=100)
    assert re.search(r"blocks 1 to 2 of \S+ and one session need at least [1-9]\S* MiB \(weights", detail)
    assert "0.1 MiB are there; raise max_memory_mib" in detail
    assert not loaded


def test_an_edge_that_cannot_tell_its_memory_asks_for_a_cap(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr("services.rpc.memory.available_bytes", lambda: None)
    assert "set max_memory_mib" in refusal(tmp_path, spec_of(tiny_bert, **WANTS))


def test_an_unreadable_checkpoint_is_refused(tiny_bert, tmp_path):
    detail = refusal(tmp_path, spec_of(tmp_path / "nowhere", **WANTS))
    assert f"no model folder at {tmp_path / 'nowhere'}" in detail


def test_an_impossible_split_is_refused(tiny_bert, tmp_path):
    detail = refusal(tmp_path, spec_of(tiny_bert, split={"bottom": 3, "top": 1}, **WANTS))
    assert "leaves no trunk" in detail and "4 blocks" in detail


def test_a_cancelled_run_leaves_nothing_at_its_nodes(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert, training={"rounds": 500, "local_steps": 50}, **WANTS)
    with system(tmp_path) as whole:
        edge = whole.edge("edge-1")
        client = whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        run_id = whole.submit(spec)
        whole.wait(run_id, lambda e: e.node_progress.progress.activity == "training")
        driver = client.node._drivers._drivers[run_id]

        whole.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), timeout=10)
        driver.join(10)
        assert not driver._thread.is_alive()
        joined = [t for t in threading.enumerate() if t.name == f"run-{run_id}"]
        for thread in joined:
            thread.join(10)
            assert not thread.is_alive()
        assert not edge.node._runs._runs
        assert edge.node._runs.sessions.room == 8
        again = whole.submit(spec_of(tiny_bert, training={"rounds": 1}, **WANTS))
        events = list(whole.events(again))
        assert events[-1].state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        assert edge.failure is client.failure is None


def test_two_runs_at_once_share_an_edge_and_its_clients(tiny_bert, tmp_path):
    wants = {"fleet": {"min_clients": 2, "min_edges": 1}}
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        for name, count in (("ann", 20), ("bob", 10)):
            whole.client(name, write_rows(tmp_path / f"{name}.jsonl", count, count))
        runs = [whole.submit(spec_of(tiny_bert, seed=seed, **wants)) for seed in (1, 2)]
        for run_id in runs:
            *_, last = whole.events(run_id)
            assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
            assert [evaluation.clients for evaluation in whole.get(run_id).evaluations] == [2, 2, 2]


def test_an_edge_that_comes_back_under_its_name_and_port_finishes_the_run(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert, training={"rounds": 2, "local_steps": 30}, **WANTS)
    with system(tmp_path) as whole:
        first = whole.edge("edge-1")
        port = int(first.node.address.rsplit(":", 1)[1])
        client = whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        run_id = whole.submit(spec)
        whole.wait(
            run_id,
            lambda e: e.node_progress.node_id == "ann" and e.node_progress.progress.activity == "training",
        )
        first.close()
        whole.edge("edge-1", port=port)
        *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        assert client.failure is None
        assert [evaluation.clients for evaluation in whole.get(run_id).evaluations] == [1, 1, 1]


def test_a_client_that_waits_for_its_edge_goes_on_when_that_is_restarted(tiny_bert, tmp_path, monkeypatch):
    with system(tmp_path) as whole, monkeypatch.context() as patched:
        patched.setattr(CloudRounds, "push", lambda cloud, *_: cloud._stop.wait(60))  # so that its clients wait
        first = whole.edge("edge-1")
        client = whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        run_id = whole.submit(spec_of(tiny_bert, training={"rounds": 2}, **WANTS))
        whole.wait(run_id, lambda e: e.node_progress.progress.activity == "training")
        rounds = first.node._runs.get(run_id).rounds
        with rounds._changed:
            assert rounds._changed.wait_for(
                lambda: rounds._waits.clients and rounds._serving.served.place[1] == 1, timeout=60
            )
        port = int(first.node.address.rsplit(":", 1)[1])
        first.close()
        patched.undo()
        whole.edge("edge-1", port=port)
        *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        assert client.failure is None
        assert [evaluation.clients for evaluation in whole.get(run_id).evaluations] == [1, 1, 1]


def broken(*_):
    raise RuntimeError("the test wants it")


@pytest.mark.parametrize(
    ("node", "fault"), [("ann", (RoundTrainer, "train")), ("edge-1", (RunDriver, "_open_round"))], ids=str
)
def test_a_run_that_fails_at_a_node_ends_there_alone_and_the_cloud_is_told(
    tiny_bert, tmp_path, monkeypatch, node, fault
):
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        with monkeypatch.context() as patched:
            patched.setattr(*fault, broken)
            run_id = whole.submit(spec_of(tiny_bert, **WANTS))
            *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_FAILED
        assert f"{node} left: RuntimeError; see the log of {node}" in whole.get(run_id).reason
        again = whole.submit(spec_of(tiny_bert, training={"rounds": 1}, **WANTS))
        *_, last = whole.events(again)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        assert not [role.failure for role in whole.nodes.values() if role.failure]


@pytest.mark.parametrize("role", ["edge", "client"])
def test_a_specification_that_a_node_cannot_read_is_refused_for_its_run_alone(tiny_bert, tmp_path, monkeypatch, role):
    def unreadable(text, name):
        raise SpecError(f"{name}: lora.rank: no such field")

    with system(tmp_path) as whole:
        whole.edge("edge-1")
        whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        with monkeypatch.context() as patched:
            patched.setattr(f"services.{role}.driver.RunSpec", SimpleNamespace(from_yaml=unreadable))
            run_id = whole.submit(spec_of(tiny_bert, **WANTS))
            event = whole.wait(run_id, lambda e: e.HasField("node_joined") and not e.node_joined.accepted)
            assert "lora.rank: no such field" in event.node_joined.detail
            *_, last = whole.events(run_id)
            assert last.state_changed.state == fleet_pb2.RUN_STATE_FAILED
        again = whole.submit(spec_of(tiny_bert, training={"rounds": 1}, **WANTS))
        *_, last = whole.events(again)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED


def test_texts_longer_than_the_model_takes_are_refused(tiny_bert, tmp_path):
    detail = refusal(tmp_path, spec_of(tiny_bert, model={"max_tokens": 1024}, **WANTS))
    assert detail == "model.max_tokens 1024: the model has 128 positions; lower it"


def test_an_edge_that_was_stopped_before_it_began_serves_nothing():
    edge = Edge(EdgeSettings(cloud="127.0.0.1:9"), threading.Event())
    edge.close()
    with pytest.raises(DrainingError, match="stopping"):
        edge.start()
    assert edge._server is None


def test_an_edge_that_stops_while_its_cloud_is_away_ends_quietly(tmp_path):
    stop = threading.Event()
    edge = Edge(EdgeSettings(cloud="127.0.0.1:9", patience_s=60), stop)
    threading.Timer(0.2, edge.close).start()
    with pytest.raises(Exception, match="stopped"):
        edge.start()
    edge.close()


def test_work_after_the_end_is_refused_and_not_lost_silently():
    worker = Worker()
    begun, release = threading.Event(), threading.Event()
    worker.submit(lambda: (begun.set(), release.wait(10)))
    assert begun.wait(5)
    queued = []

    def wait():
        try:
            worker.run(lambda: None)
        except DrainingError as error:
            queued.append(error)

    submitted = threading.Event()
    real = worker.submit

    def submit(*given):
        future = real(*given)
        submitted.set()
        return future

    worker.submit = submit
    waiter = threading.Thread(target=wait)
    waiter.start()
    assert submitted.wait(5)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    waiter.join(5)
    release.set()
    stopper.join(5)
    assert len(queued) == 1
    with pytest.raises(DrainingError, match="stopping"):
        worker.run(lambda: None)
    worker.post(lambda: None)


def test_settings_name_their_fault(monkeypatch):
    monkeypatch.setenv("ELSA_CAPACITY", "0")
    with pytest.raises(SpecError, match="capacity"):
        EdgeSettings.load()
    assert EdgeSettings.load(capacity=3, port=None).capacity == 3
