"""A whole run whose splits are planned from what its clients measured learns what one of given splits does."""

from fleet_harness import system, write_rows
from safetensors.numpy import load
from split_harness import assert_same, spec_of
from test_client_shares import PLANNED

from elsa.train.measuring import ClientSeconds, EdgeSeconds
from elsa.v1 import fleet_pb2

WANTS = {"fleet": {"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60}}
QUICK = ClientSeconds(block_s=1e-6, embeddings_s=1e-6, head_s=1e-6, codec_s=1e-6)
SLOW = EdgeSeconds(block_s=10.0, crowding_s=0.0, step_s=0.0)


def run_of(folder, spec, **of_ann):
    """The exported tensors of a run of two clients, and each client's split as it was planned first."""
    folder.mkdir()
    with system(folder) as whole:
        cache = folder / "cache"
        whole.edge("edge-1", profiles=folder / "profiles")
        whole.client("ann", write_rows(folder / "ann.jsonl", 24, 1), cache=cache, **of_ann)
        whole.client("bob", write_rows(folder / "bob.jsonl", 30, 2), cache=cache, max_bottom=1)
        run_id = whole.submit(spec)
        events = list(whole.events(run_id))
        assert events[-1].state_changed.state == fleet_pb2.RUN_STATE_COMPLETED, events[-1]
        plans = [event.planned for event in events if event.HasField("planned")]
        splits = {client.client_id: client.split for client in plans[0].clients} if plans else {}
        return load(whole.export(run_id)["adapter_model.safetensors"]), splits


def test_planned_splits_change_what_each_device_does_and_not_what_is_learned(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr("services.client.profile.client_seconds", lambda *_: QUICK)
    monkeypatch.setattr("services.edge.profile.edge_seconds", lambda *_: SLOW)
    given, none = run_of(tmp_path / "given", spec_of(tiny_bert, plan={"method": "given"}, **WANTS))
    planned = spec_of(tiny_bert, **PLANNED, **WANTS)
    got, splits = run_of(tmp_path / "planned", planned, weights="edge")
    assert not none and splits["ann"] == "2/1/1", "who computes at once and says nothing against it takes all it may"
    assert splits["bob"].startswith("1/")
    assert_same(got, given, 1e-4)
