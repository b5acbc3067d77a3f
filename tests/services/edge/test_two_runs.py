"""Two runs at one process of each role: what one of them needs to itself the other does not get."""

from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.v1 import run_pb2

WANTS = {"fleet": {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}}


def test_a_run_that_needs_a_process_to_itself_is_refused_beside_another_and_nothing_of_either_stays(
    tiny_bert, tmp_path
):
    alone = spec_of(tiny_bert, training={"rounds": 1, "dropout": True, "checkpointing": True}, **WANTS)
    with system(tmp_path) as whole:
        roles = whole.edge("edge-1"), whole.client("ann", write_rows(tmp_path / "ann.jsonl", 20, 1))
        first = whole.submit(spec_of(tiny_bert, training={"rounds": 500, "local_steps": 50}, **WANTS))
        whole.wait(first, lambda e: e.node_progress.progress.activity == "training")
        assert all(role.node._ledger._reserved[first] > 0 for role in roles)
        second = whole.submit(alone)  # ends as soon as one of the two has refused it
        event = whole.wait(second, lambda e: e.node_joined.node_id != "", timeout=30)
        assert not event.node_joined.accepted and "needs a process to itself" in event.node_joined.detail
        drivers = [driver for role in roles for driver in role.node._drivers._drivers.values()]
        whole.runs.CancelRun(run_pb2.CancelRunRequest(run_id=first), timeout=10)
        for driver in drivers:
            driver.join(20)
        assert not any(role.node._ledger._reserved or role.node._ledger._draws for role in roles)
