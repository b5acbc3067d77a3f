"""A cloud that fails now and then costs no edge and no client its part in a run."""

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.errors import PeerError
from elsa.v1 import fleet_pb2
from services.cloud.adapters import Adapters
from services.cloud.fleet_servicer import FleetServicer
from services.cloud.run_servicer import RunServicer

ONCE = {"fleet": {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}}
CALLS = [(Adapters, "pull"), (Adapters, "take"), (FleetServicer, "JoinRun"), (RunServicer, "ReportEvaluation")]


def failing_first(monkeypatch, owner, name, errors):
    """That method raises these errors at its first calls, one each."""
    real, left = getattr(owner, name), [*errors]

    async def call(self, *given):
        if left:
            raise left.pop(0)
        return await real(self, *given)

    monkeypatch.setattr(owner, name, call)
    return left


@pytest.mark.parametrize(("owner", "name"), CALLS)
def test_faults_of_the_cloud_that_pass_end_nobodys_part_in_a_run(tiny_bert, tmp_path, monkeypatch, owner, name):
    left = failing_first(monkeypatch, owner, name, [PeerError("a bucket"), PeerError("a disk")])
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        whole.client("ann", write_rows(tmp_path / "ann.jsonl", 30, 1))
        run_id = whole.submit(spec_of(tiny_bert, training={"rounds": 2}, **ONCE))
        *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED, whole.get(run_id).reason
        assert [evaluation.clients for evaluation in whole.get(run_id).evaluations] == [1, 1, 1]
    assert not left
