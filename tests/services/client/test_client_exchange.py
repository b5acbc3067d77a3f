"""What a client knows of its run's exchange: kept rows that are void, and runs that it refuses to join."""

import numpy as np
import pytest
from fleet_harness import system, write_rows
from split_harness import edge_server, first_adapter, rows, spec_of
from trainer_harness import trainer_of

from elsa.model.architecture import bottom_names
from elsa.v1 import fleet_pb2
from elsa.wire.adapter import encode_adapter
from services.client.site import SiteData
from services.rpc.adapters import Pulled

WANTS = {"fleet": {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}}


def pulled(tensors, edge_round=0):
    return Pulled(version=0, edge_round=edge_round, data=encode_adapter(tensors))


def test_a_bottom_that_another_client_trained_voids_the_rows_that_are_kept(tiny_bert):
    spec = spec_of(tiny_bert, reuse={"enabled": True}, lora={"bottom_adapters": False}, training={"local_steps": 2})
    start, data, numbers = first_adapter(spec), rows(8, 1), range(8)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        trainer = trainer_of(spec, SiteData(train=data, heldout=data, report=""), edge.split)
        end = trainer._end
        trainer.train(pulled(start))
        assert not any(end.missing(numbers))

        below = set(bottom_names(start, trainer._segment.architecture, trainer.split))
        above = {name: values if name in below else values + 0.01 for name, values in start.items()}
        run.rounds.open(0, 1, above)
        trainer.train(pulled(above, 1))
        assert not any(end.missing(numbers)), "what the trunk learned says nothing of h1"

        moved = {name: values + np.float32(0.01) for name, values in above.items()}
        trainer._write(moved)
        assert below and all(end.missing(numbers))


def refusal(tmp_path, spec, name, *, real):
    """What the cloud hears of a node that does not take part."""
    with system(tmp_path) as whole:
        if real == "edge":
            whole.edge(name)
            whole.register_client("idle")
        else:
            request = fleet_pb2.RegisterEdgeRequest(edge_id="idle", address="127.0.0.1:9", capacity=4)
            whole.fleet.RegisterEdge(request, timeout=10)
            whole.client(name, write_rows(tmp_path / "rows.jsonl", 20, 1))
        run_id = whole.submit(spec)
        event = whole.wait(run_id, lambda each: each.node_joined.node_id == name, timeout=30)
    assert not event.node_joined.accepted
    return event.node_joined.detail


@pytest.mark.parametrize("real", ["edge", "client"])
def test_a_run_that_does_not_fit_its_model_is_refused_when_it_enrolls(tiny_bert, tmp_path, real):
    spec = spec_of(tiny_bert, codecs={"h1": "subspace(k=65)"}, **WANTS)
    detail = refusal(tmp_path, spec, "one", real=real)
    assert "codecs.h1.subspace.k: 65 is more than the 64 columns" in detail
