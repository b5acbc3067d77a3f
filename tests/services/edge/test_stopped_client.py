"""A client that stops while its run trains: the run goes on without it, and says so to its end."""

from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.v1 import fleet_pb2
from services.cli.events import line

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
NAMES = ("ann", "bob", "cat")


def test_a_run_that_goes_on_without_a_client_names_it_in_its_rounds_and_at_its_end(tiny_bert, tmp_path):
    with system(tmp_path, gone_after_s=2.5) as whole:
        whole.edge("edge-1")
        clients = {
            name: whole.client(name, write_rows(tmp_path / f"{name}.jsonl", 20, seed))
            for seed, name in enumerate(NAMES)
        }
        run_id = whole.submit(
            spec_of(
                tiny_bert,
                training={"rounds": 4, "edge_rounds": 1, "local_steps": 3},
                fleet={"min_clients": 3, "min_edges": 1},
                rounds={"quorum": 0.6},
            )
        )
        whole.wait(run_id, lambda event: event.HasField("round_closed"))
        clients["cat"].close()
        events = list(whole.events(run_id))
        run = whole.get(run_id)
    assert run.state == COMPLETED, run.reason
    closed = [event for event in events if event.HasField("round_closed")]
    last = closed[-1].round_closed
    assert (last.version, last.clients) == (4, 3)
    assert "cat" in {absentee.client_id for absentee in last.absentees}
    assert "clients not in it: " in line(closed[-1]) and "cat (" in line(closed[-1])
    assert " of 3 clients did not take part to the end: " in run.reason and "cat (" in run.reason
