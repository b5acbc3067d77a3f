"""Edges that are killed while a run trains: their clients go on at another, and every row counts once a round."""

import signal
from collections import Counter
from contextlib import ExitStack

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of
from test_role_processes import process, wait_for

from elsa.v1 import fleet_pb2
from services.client.driver import RunDriver

HOMES = {"ann": "edge-1", "bob": "edge-2", "cat": "edge-1", "dan": "edge-2"}
ROWS = {"ann": 20, "bob": 15, "cat": 30, "dan": 25}
ROUNDS = 4
COMPLETED = fleet_pb2.RUN_STATE_COMPLETED


@pytest.fixture
def homes(monkeypatch):
    """Clients whose nearest edges are known."""
    real = RunDriver._offer

    def offer(driver, given):
        for link in given.links:
            link.latency_ms = 1 if link.edge_id == HOMES[driver._link.node_id] else 20
        return real(driver, given)

    monkeypatch.setattr(RunDriver, "_offer", offer)


def spec_here(folder, **parts):
    return spec_of(
        folder,
        **{
            "training": {"rounds": ROUNDS, "edge_rounds": 2, "local_steps": 3},
            "fleet": {"min_clients": len(HOMES), "min_edges": 2},
            **parts,
        },
    )


def clients(whole, folder):
    for name in HOMES:
        whole.client(name, write_rows(folder / f"{name}.jsonl", ROWS[name], ROWS[name]))


def trains(whole, run_id, name, version=0):
    """Wait until a client trains in a version."""
    whole.wait(
        run_id,
        lambda event: (
            event.node_progress.node_id == name
            and event.node_progress.progress.activity == "training"
            and event.node_progress.progress.version >= version
        ),
    )


def check_every_row_counts_once(events, moved):
    """No report twice, each version made once, and all clients in the last one."""
    closed = [event.round_closed.version for event in events if event.HasField("round_closed")]
    assert closed == list(range(1, ROUNDS + 1))
    updates = [event.update_received for event in events if event.HasField("update_received")]
    reports = Counter((u.version, r.client_id, r.edge_round) for u in updates for r in u.reports)
    assert set(reports.values()) == {1}
    last = [u for u in updates if u.version == ROUNDS - 1]
    assert {r.client_id for u in last for r in u.reports} == set(HOMES)
    assert sum(u.rows for u in last) == sum({r.client_id: r.rows for u in last for r in u.reports}.values())
    assigned = [event.client_assigned for event in events if event.HasField("client_assigned")]
    assert [
        a.client_id for a in assigned if "edge-1 is gone: not heard of for" in a.detail and a.edge_id == "edge-2"
    ] == moved


def test_a_run_completes_without_an_edge_that_was_killed(tiny_bert, tmp_path, homes):
    with system(tmp_path, gone_after_s=2.5) as whole, ExitStack() as stack:
        started, ready = process(stack, tmp_path, "edge", name="edge-1", cloud=whole.address)
        wait_for(ready, started)
        whole.edge("edge-2")
        clients(whole, tmp_path)
        run_id = whole.submit(spec_here(tiny_bert))
        trains(whole, run_id, "ann", version=1)
        started.send_signal(signal.SIGKILL)
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == COMPLETED, run.reason
        assert not [role.failure for role in whole.nodes.values() if role.failure]
    check_every_row_counts_once(events, ["ann", "cat"])
    assert run.evaluations[-1].clients == len(HOMES)


def test_an_edge_that_comes_back_too_late_has_no_clients_and_stops_nobody(tiny_bert, tmp_path, homes):
    with system(tmp_path, gone_after_s=2.5) as whole:
        lost = whole.edge("edge-1")
        whole.edge("edge-2")
        clients(whole, tmp_path)
        run_id = whole.submit(spec_here(tiny_bert))
        trains(whole, run_id, "ann")
        lost.close()
        whole.wait(run_id, lambda event: "is gone" in event.client_assigned.detail)
        back = whole.edge("edge-1")
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == COMPLETED, run.reason
        assert back.failure is None
    check_every_row_counts_once(events, ["ann", "cat"])


def test_an_edge_that_comes_back_in_time_keeps_its_clients_whatever_its_address(tiny_bert, tmp_path, homes):
    with system(tmp_path, gone_after_s=60) as whole:
        before = whole.edge("edge-1")
        whole.edge("edge-2")
        clients(whole, tmp_path)
        run_id = whole.submit(spec_here(tiny_bert))
        trains(whole, run_id, "ann")
        before.close()
        after = whole.edge("edge-1")
        assert after.node.address != before.node.address
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == COMPLETED, run.reason
        assert not [role.failure for role in whole.nodes.values() if role.failure]
    check_every_row_counts_once(events, [])


def test_an_edge_that_had_no_clients_takes_those_of_one_that_is_lost(tiny_bert, tmp_path, homes, monkeypatch):
    for name in HOMES:
        monkeypatch.setitem(HOMES, name, "edge-1")
    with system(tmp_path, gone_after_s=2.5) as whole:
        lost = whole.edge("edge-1")
        whole.edge("edge-2")
        clients(whole, tmp_path)
        run_id = whole.submit(spec_here(tiny_bert))
        trains(whole, run_id, "ann")
        lost.close()
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == COMPLETED, run.reason
        assert not [role.failure for role in whole.nodes.values() if role.failure]
    check_every_row_counts_once(events, sorted(HOMES))


def test_an_edge_that_is_lost_in_the_warm_up_is_left_there(tiny_bert, tmp_path, homes):
    clustering = {"method": "auto", "warmup_steps": 50, "dimensions": 4, "probes": {"count": 16, "repeated": 4}}
    with system(tmp_path, gone_after_s=2.5) as whole:
        lost = whole.edge("edge-1")
        whole.edge("edge-2")
        clients(whole, tmp_path)
        run_id = whole.submit(spec_here(tiny_bert, clustering=clustering, trust={"enabled": False}))
        whole.wait(run_id, lambda event: event.state_changed.state == fleet_pb2.RUN_STATE_WARMUP)
        lost.close()
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == COMPLETED, run.reason
        assert not [role.failure for role in whole.nodes.values() if role.failure]
    places = next(event.clustered.places for event in events if event.HasField("clustered"))
    assert {place.client_id: place.edge_id for place in places} == dict.fromkeys(HOMES, "edge-2")
    assert all(place.HasField("parts") for place in places)  # each sent a fingerprint, from wherever it was
    check_every_row_counts_once(events, ["ann", "cat"])
