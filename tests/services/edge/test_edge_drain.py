"""An edge that is told to stop: what is open is finished, nothing new begins, and the run goes on where it was."""

import time

import grpc
import pytest
from fleet_harness import system, write_rows
from grpc_health.v1 import health_pb2, health_pb2_grpc
from split_harness import spec_of

from elsa.v1 import fleet_pb2

WAIT_S = 20.0


def ready(address, name=""):
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def training(tiny_bert, **given):
    wants = {"min_clients": 2, "min_edges": 1}
    return spec_of(tiny_bert, training={"rounds": 3, "local_steps": 12, **given}, fleet=wants)


def in_a_round(event):
    progress = event.node_progress.progress
    return progress.activity == "training" and progress.step >= 2


@pytest.mark.parametrize("edge_rounds", [1, 2])
def test_clients_finish_the_round_that_is_open_and_the_run_goes_on_after_it(tiny_bert, tmp_path, edge_rounds):
    rows = write_rows(tmp_path / "rows.jsonl", 40, 1)
    with system(tmp_path, gone_after_s=120) as whole:
        role = whole.edge("edge-1", probe_port=0, grace_s=60)
        for name in ("ann", "bob"):
            whole.client(name, rows)
        run_id = whole.submit(training(tiny_bert, edge_rounds=edge_rounds))
        whole.wait(run_id, in_a_round)
        edge, probes = role.node, role.node.monitoring.probes.address
        assert ready(probes)
        tally = edge._runs.sessions.tally
        edge.drain()
        assert not ready(probes) and ready(probes, "live") and not ready(edge.address)
        done = tally.sessions
        assert done["committed"] >= 2 and done["committed"] % 2 == 0
        assert (done["dropped"], done["failed"]) == (0, 0)
        role.close()
        whole.edge("edge-1")
        whole.wait(run_id, lambda event: event.state_changed.state == fleet_pb2.RUN_STATE_COMPLETED)
        assert whole.get(run_id).version == 3


def test_a_grace_that_is_over_ends_what_is_open(tiny_bert, tmp_path, caplog):
    rows = write_rows(tmp_path / "rows.jsonl", 40, 1)
    with system(tmp_path) as whole:
        role = whole.edge("edge-1", grace_s=0.5)
        for name in ("ann", "bob"):
            whole.client(name, rows)
        run_id = whole.submit(training(tiny_bert, local_steps=100_000))
        whole.wait(run_id, in_a_round)
        begin = time.monotonic()
        role.node.drain()
        assert 0.5 <= time.monotonic() - begin < 10
        assert "clients have not finished within 0.5 s" in caplog.text


def test_an_edge_without_work_drains_at_once(tmp_path):
    with system(tmp_path) as whole:
        role = whole.edge("edge-1", grace_s=60)
        begin = time.monotonic()
        role.node.drain()
        assert time.monotonic() - begin < 5


def test_who_has_left_is_not_waited_for(tiny_bert, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 40, 1)
    with system(tmp_path) as whole:
        role = whole.edge("edge-1", grace_s=60)
        clients = [whole.client(name, rows) for name in ("ann", "bob")]
        run_id = whole.submit(training(tiny_bert, local_steps=100_000))
        whole.wait(run_id, in_a_round)
        for client in clients:
            client.close()
        begin = time.monotonic()
        role.node.drain()
        assert time.monotonic() - begin < 30
