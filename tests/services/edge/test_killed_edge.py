"""Whatever an edge is killed at, the run ends as if it had not been, and nothing counts twice."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet_harness import system, write_rows
from split_harness import config_of, first_adapter, spec_of

from elsa.model.adapter import initial_adapter
from elsa.model.weights import Checkpoint
from elsa.v1 import fleet_pb2
from elsa.wire.adapter import encode_adapter, sha256
from services.edge.delivery import Delivery
from services.edge.parts import Closed, Part
from services.edge.saved import Kept, Saved
from services.edge.state import EdgeState

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
NAMES = ("ann", "bob")
ROUNDS = 3
KILLED = Path(__file__).with_name("killed_edge.py")


def spec_for(folder, **parts):
    training = {"rounds": 2, "edge_rounds": ROUNDS, **parts.pop("training", {})}
    return spec_of(
        folder,
        training=training,
        fleet={"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60},
        **parts,
    )


def killed_edge(stack, folder, cloud, point, count):
    """An edge that is to be killed, and where it serves."""
    ready = folder / "edge.json"
    given = {"NAME": "edge-1", "CLOUD": cloud, "STATE": str(folder / "state"), "READY_FILE": str(ready)}
    started = subprocess.Popen(
        [sys.executable, str(KILLED), point, str(count)],
        env={**os.environ, **{f"ELSA_{name}": value for name, value in given.items()}},
        stderr=stack.enter_context((folder / "edge.log").open("w")),
    )
    stack.callback(started.wait)
    stack.callback(started.kill)
    end = time.monotonic() + 60
    while not ready.exists():
        assert started.poll() is None and time.monotonic() < end
        time.sleep(0.02)  # another process's file: there is nothing to wait on
    return started, int(json.loads(ready.read_text())["address"].rpartition(":")[2])


def outcome(whole, run_id):
    """What a run made and told: its adapter, what each version was worth, and who was counted in which round."""
    *events, last = whole.events(run_id)
    assert last.state_changed.state == COMPLETED, last
    updates = [event.update_received for event in events if event.HasField("update_received")]
    counted = [
        (update.version, update.rows, sorted((r.client_id, r.edge_round, r.rows, r.steps) for r in update.reports))
        for update in updates
    ]
    closed = [event.round_closed.version for event in events if event.HasField("round_closed")]
    worth = [(e.version, e.rows, e.loss, e.accuracy, e.clients) for e in whole.get(run_id).evaluations]
    return whole.export(run_id)["adapter_model.safetensors"], counted, closed, worth


def join_all(whole, folder):
    for seed, name in enumerate(NAMES):
        whole.client(name, write_rows(folder / f"{name}.jsonl", 24 + seed, seed))


def wait_until_empty(folder):
    """Wait until an edge has heard of the run's end, and keeps nothing of it any more."""
    end = time.monotonic() + 30
    while left := list((folder / "state").glob("edges/*/*")):
        assert time.monotonic() < end, left
        time.sleep(0.02)  # its own thread's file: there is nothing to wait on


@pytest.fixture(scope="module")
def undisturbed(tiny_bert, tmp_path_factory):
    """The outcome of a run whose edge nobody killed, and a proof that nothing of it is left on disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with system(folder) as whole:
        whole.edge("edge-1")
        join_all(whole, folder)
        found = outcome(whole, whole.submit(spec_for(tiny_bert)))
        wait_until_empty(folder)
    return found


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("point", "count", "goes_on"),
    [
        slow("before", 1, None),
        slow("within", 1, None),
        ("after", 1, (0, 1)),
        ("within", 3, (0, 1)),  # each file is forced to the disk and then its name
        slow("after", 2, (0, 2)),
        slow("before", 3, (0, 2)),
        slow("after", 3, (0, 3)),
        ("delivery", 1, (0, 3)),
        slow("pushed", 1, None),  # which closes the round at the cloud
        slow("after", 4, (1, 1)),
        slow("delivery", 2, (1, 3)),
    ],
)
def test_killed_at_any_point_an_edge_goes_on_after_the_rounds_that_it_had_closed(
    tiny_bert, tmp_path, caplog, undisturbed, point, count, goes_on
):
    caplog.set_level("INFO", logger="services.edge")
    with system(tmp_path) as whole, ExitStack() as stack:
        first, port = killed_edge(stack, tmp_path, whole.address, point, count)
        join_all(whole, tmp_path)
        run_id = whole.submit(spec_for(tiny_bert))
        assert first.wait(60) == -9
        whole.edge("edge-1", port=port)
        assert outcome(whole, run_id) == undisturbed
        wait_until_empty(tmp_path)
    said = [record.getMessage() for record in caplog.records if "goes on in version" in record.getMessage()]
    if goes_on is None:
        assert not said
    else:
        version, closed = goes_on
        assert said == [f"run {run_id}: goes on in version {version} after {closed} of {ROUNDS} edge rounds"]
    assert "Traceback" not in (tmp_path / "edge.log").read_text()


def test_an_edge_whose_disk_keeps_nothing_works_as_ever_and_says_so_once(tiny_bert, tmp_path, caplog, undisturbed):
    (tmp_path / "state").write_text("no folder can be made here")
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        join_all(whole, tmp_path)
        assert outcome(whole, whole.submit(spec_for(tiny_bert))) == undisturbed
    said = [record.getMessage() for record in caplog.records if "it goes on in memory" in record.getMessage()]
    assert len(said) == 1 and "set state to another folder" in said[0]


def test_what_an_earlier_fleet_left_behind_is_taken_for_nobody_s(tiny_bert, tmp_path, undisturbed):
    folder = tmp_path / "state" / "edges" / "edge-1"
    state = EdgeState(folder, "edge-1")
    spec = spec_for(tiny_bert)
    checkpoint = Checkpoint.open(spec.model.source)
    start = initial_adapter(checkpoint, config_of(spec), len(spec.data.labels), spec.seed)
    for run_id in ("tiny-1", "tiny-7"):  # the first is of the name, start and version that the new run has
        delivery = Delivery(start)
        part = Part(adapter=first_adapter(spec), rows=9, clients=1, reports=())
        delivery.add(Closed(parts={0: part}, missing=()))
        state.put(
            Saved(
                edge="edge-1",
                run_id=run_id,
                version=0,
                edge_rounds=ROUNDS,
                start_sha256=sha256(encode_adapter(start)),
                made=delivery.made(),
                kept=Kept(clusters={}, clusters_version=None, own={}),
            )
        )
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        join_all(whole, tmp_path)
        run_id = whole.submit(spec)
        assert run_id == "tiny-1"
        assert outcome(whole, run_id) == undisturbed
        wait_until_empty(tmp_path)
