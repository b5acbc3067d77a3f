"""What a client says when it cannot take part, and which edges it can reach."""

import gzip
import json

import pytest
from fleet_harness import system, write_rows
from split_harness import edge_server, spec_of

from elsa.errors import DataError, SpecError, UnreachableError
from elsa.model.weights import Checkpoint
from elsa.v1 import fleet_pb2
from services.client import links
from services.client.links import as_reached, measure, measure_one
from services.client.settings import ClientSettings
from services.client.site import load

WANTS = {"fleet": {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}}


def rows_file(path, count):
    path.write_text("".join(json.dumps({"text": f"w{n} w1", "label": "abc"[n % 3]}) + "\n" for n in range(count)))
    return path


def test_rows_are_shared_between_training_and_evaluation_alike_each_time(tiny_bert, tmp_path):
    spec, checkpoint = spec_of(tiny_bert), Checkpoint.open(str(tiny_bert))
    path = rows_file(tmp_path / "rows.jsonl", 20)
    first, second = (load(spec, checkpoint, {"words": str(path)}, {}) for _ in range(2))
    assert (len(first.train), len(first.heldout)) == (16, 4)
    assert first == second
    other = rows_file(tmp_path / "other.jsonl", 7)
    kept = load(spec, checkpoint, {"words": str(path)}, {"words": str(other)})
    assert (len(kept.train), len(kept.heldout)) == (20, 7)


def broken_file(tmp_path):
    path = tmp_path / "broken.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "w1", "label": "a"}\n' * 50)[:-9])
    return {"words": str(path)}


FAULTS = {
    "no data set at all": (lambda folder: {}, "offers none"),
    "another data set": (lambda folder: {"notes": "x.jsonl"}, "no data set 'words'; it offers notes"),
    "no file": (lambda folder: {"words": str(folder / "none.jsonl")}, "no such file"),
    "a broken file": (broken_file, "gzip"),
    "one row": (lambda folder: {"words": str(rows_file(folder / "one.jsonl", 1))}, "at least 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unusable_data_is_named(tiny_bert, tmp_path, fault):
    data, word = FAULTS[fault]
    with pytest.raises(DataError, match=word):
        load(spec_of(tiny_bert), Checkpoint.open(str(tiny_bert)), data(tmp_path), {})


def test_a_client_that_cannot_take_part_tells_the_cloud_and_lives_on(tiny_bert, tmp_path):
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        poor = whole.client("ann", rows_file(tmp_path / "one.jsonl", 1))
        whole.client("bob", write_rows(tmp_path / "bob.jsonl", 20, 2))
        run_id = whole.submit(spec_of(tiny_bert, **WANTS))
        event = whole.wait(run_id, lambda e: e.node_joined.node_id == "ann", timeout=30)
        assert not event.node_joined.accepted and "at least 2" in event.node_joined.detail
        *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED
        assert poor.failure is None
        assert list(whole.get(run_id).client_ids) == ["bob"]


def test_edges_that_do_not_answer_are_left_out(monkeypatch):
    monkeypatch.setattr(links, "TIMEOUT_S", 2.0)
    with edge_server() as edge:
        there = fleet_pb2.EdgePeer(edge_id="there", address=edge.address)
        gone = fleet_pb2.EdgePeer(edge_id="gone", address="127.0.0.1:9")
        reports = measure([gone, there])
        assert [report.edge_id for report in reports] == ["there"]
        assert 0 < reports[0].latency_ms < 2000 and min(reports[0].up_bytes_per_s, reports[0].down_bytes_per_s) > 0
        with pytest.raises(UnreachableError, match="gone"):
            measure_one(gone)
        assert measure([]) == []


def test_settings_name_their_fault(monkeypatch):
    monkeypatch.setenv("ELSA_THREADS", "none")
    with pytest.raises(SpecError, match="threads"):
        ClientSettings.load()
    with pytest.raises(SpecError, match="nam: unknown field"):
        ClientSettings.load(threads=1, nam="x")
    with pytest.raises(SpecError, match=r"pace .*give how many times slower"):
        ClientSettings.load(pace="fast")
    monkeypatch.setenv("ELSA_EDGE_ADDRESSES", "edge-1=10.0.0.7:7500")
    with pytest.raises(SpecError, match=r'EDGE_ADDRESSES is not JSON .*"edge-1": "10.0.0.7:7500"'):
        ClientSettings.load(threads=1)


def test_edges_are_reached_at_the_addresses_that_the_owner_gives():
    edges = [fleet_pb2.EdgePeer(edge_id=name, address=f"{name}:1") for name in ("near", "far")]
    told = fleet_pb2.Assignment(run_id="a", edges=edges)
    reached = as_reached(told, {"far": "tunnel:9", "other": "x:1"})
    assert [edge.address for edge in reached.edges] == ["near:1", "tunnel:9"]
    assert [edge.address for edge in told.edges] == ["near:1", "far:1"]
    assert as_reached(told, {}) == told
