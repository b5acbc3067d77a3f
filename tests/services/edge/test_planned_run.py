"""A whole run whose splits are planned, over a real cloud, an edge and clients of unequal pace."""

from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.v1 import fleet_pb2

PACES = {"ann": "1", "bob": "40"}


def test_a_planned_run_completes_and_its_edge_serves_whatever_was_planned(tiny_bert, tmp_path, caplog):
    caplog.set_level("INFO")
    spec = spec_of(
        tiny_bert,
        plan={"method": "measured"},
        split={"bottom": 1, "top": 0},
        fleet={"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60},
    )
    with system(tmp_path) as whole:
        edge = whole.edge("edge-1", profiles=tmp_path / "profiles")
        for seed, (name, pace) in enumerate(PACES.items()):
            data = write_rows(tmp_path / f"{name}.jsonl", 30, seed)
            whole.client(name, data, pace=pace, cache=tmp_path / "cache")
        run_id = whole.submit(spec)
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == fleet_pb2.RUN_STATE_COMPLETED, run.reason
        assert "adapter_model.safetensors" in "".join(whole.export(run_id))
        assert any(event.HasField("planned") for event in events)
        assert edge.failure is None
    (joined,) = (message for message in caplog.messages if "joined with blocks" in message)
    assert "[1, 2, 3]" in joined
