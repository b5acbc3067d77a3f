"""The cloud's figures follow what its database holds, and are those of docs/metrics.md."""

import asyncio
import re
from pathlib import Path

import grpc
import pytest
from cloud_harness import CLIENTS, EDGES, adapter, run_async, site, spec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scraping import figure, names_of, scraped

from elsa.v1 import fleet_pb2, run_pb2
from services.cloud import metrics
from services.cloud.metrics import CloudMetrics
from services.cloud.store import Transaction

LISTED = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
ASKED = {"metrics_port": 0, "probe_port": 0}


async def told(at):
    """The figures, asked from another thread, as Prometheus would."""
    return await asyncio.to_thread(scraped, at.cloud.monitoring.metrics.address)


@run_async
async def test_nodes_are_counted_alive_or_silent(tmp_path):
    async with site(tmp_path, **ASKED) as at:
        assert figure(await told(at), "elsa_cloud_nodes", role="client", state="alive") == 0
        await at.register()
        at.clock.now += 1802  # three heartbeats of 600 s and a second
        await at.heartbeat("client-1")
        found = await told(at)
    counted = {
        (role, state): figure(found, "elsa_cloud_nodes", role=role, state=state)
        for role in ("edge", "client")
        for state in ("alive", "silent")
    }
    assert counted == {("edge", "alive"): 0, ("edge", "silent"): 2, ("client", "alive"): 1, ("client", "silent"): 3}


@run_async
async def test_figures_follow_a_run_from_its_beginning_to_its_end(tmp_path):
    async with site(tmp_path, **ASKED) as at:
        run = await at.started()
        found = await told(at)
        assert figure(found, "elsa_cloud_runs", state="training") == 1
        assert figure(found, "elsa_cloud_run_round", run_id=run) == 0
        assert figure(found, "elsa_cloud_run_rounds", run_id=run) == 2
        assert figure(found, "elsa_cloud_run_members", run_id=run, role="edge") == len(EDGES)
        assert figure(found, "elsa_cloud_run_members", run_id=run, role="client") == len(CLIENTS)
        for version in (0, 1):
            at.clock.now += 40
            for edge in EDGES:
                await at.push(run, edge, adapter(version), version)
            await at.closed(run, version + 1)
            for client, rows in zip(CLIENTS, (1, 2, 3, 4), strict=True):
                if (version, client) != (1, "client-4"):
                    await at.evaluate(run, client, version + 1, rows=rows, loss=rows / 10, accuracy=rows / 8)
        found = await told(at)
        assert figure(found, "elsa_cloud_run_round", run_id=run) == 2
        assert abs(figure(found, "elsa_cloud_run_loss", run_id=run) - (0.1 + 0.4 + 0.9) / 6) < 1e-9
        assert abs(figure(found, "elsa_cloud_run_accuracy", run_id=run) - (1 + 4 + 9) / 8 / 6) < 1e-9
        assert figure(found, "elsa_cloud_round_seconds_count") == 2
        assert figure(found, "elsa_cloud_round_seconds_sum") == 80
        assert figure(found, "elsa_cloud_round_seconds_bucket", le="30.0") == 0
        assert figure(found, "elsa_cloud_round_seconds_bucket", le="60.0") == 2
        await at.evaluate(run, "client-4", 2)
        await at.reach(run, fleet_pb2.RUN_STATE_COMPLETED)
        found = await told(at)
        assert figure(found, "elsa_cloud_runs", state="completed") == 1
        assert figure(found, "elsa_cloud_round_seconds_count") == 2
        assert not [name for name, labels in found if ("run_id", run) in labels]


@run_async
async def test_a_round_is_counted_once_whenever_it_is_written_down(tmp_path):
    async with site(tmp_path, **ASKED) as at:
        runs = [await at.started(spec(training={"rounds": 3})), await at.submit(spec(training={"rounds": 3}))]
        await at.enroll(runs[1])
        counts = []
        at.clock.now += 100
        for run, version in [(runs[0], 0), (runs[1], 0), (runs[1], 1)]:
            at.clock.now -= 10  # it was looked at before the others were written down, and takes longer
            for edge in EDGES:
                await at.push(run, edge, adapter(version), version)
            await at.closed(run, version + 1)
            counts.append([figure(await told(at), "elsa_cloud_round_seconds_count") for _ in range(2)])
    assert counts == [[1, 1], [2, 2], [3, 3]]


@run_async
async def test_a_run_whose_rounds_are_counted_is_not_read_again_once_it_has_ended(tmp_path):
    read, rows = [], Transaction.rows

    def noted(self, query):
        found = rows(self, query)
        read.extend(found)
        return found

    async def asked(at):
        """The count of rounds, and of which of the runs something was read."""
        read.clear()
        count = figure(await told(at), "elsa_cloud_round_seconds_count")
        return count, {run for run in runs if any(run in row for row in read)}

    async def round_of(at, run):
        at.clock.now += 1
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Transaction, "rows", noted)
        async with site(tmp_path, **ASKED) as at:
            first = await at.started(spec(training={"rounds": 1}))
            runs = [first]
            assert await asked(at) == (0, {first})
            await round_of(at, first)
            await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=first))
            assert (await asked(at))[0] == 1  # ended, and with a round since
            second = await at.submit(spec(training={"rounds": 1}))
            await at.enroll(second)
            runs.append(second)
            assert await asked(at) == (1, {second})
            await round_of(at, second)
            assert await asked(at) == (2, {second})


@run_async
async def test_bytes_of_adapters_and_the_state_s_own_figures_are_told(tmp_path):
    async with site(tmp_path, **ASKED) as at:
        run = await at.started(spec(training={"rounds": 1}))
        data = adapter(1)
        before = await told(at)
        for edge in EDGES:
            await at.push(run, edge, data)
        await at.closed(run, 1)
        await at.pull(run, "edge-1", 1)
        after = await told(at)
    taken = {"method": "AdapterService.PushAdapter", "direction": "in"}
    pushed = figure(after, "elsa_rpc_bytes_total", **taken) - figure(before, "elsa_rpc_bytes_total", **taken)
    assert 2 * len(data) < pushed < 2 * len(data) + 1000
    given = figure(after, "elsa_rpc_bytes_total", method="AdapterService.PullAdapter", direction="out")
    assert len(data) < given < len(data) + 1000
    assert figure(after, "elsa_rpc_calls_total", method="AdapterService.PushAdapter", code="OK") == 4
    assert figure(after, "elsa_cloud_ticked_seconds") == at.clock.now
    assert figure(after, "elsa_cloud_database_bytes") > 10_000
    assert figure(after, "elsa_cloud_state_free_bytes") > 0


@run_async
async def test_every_figure_is_in_the_documentation(tmp_path):
    async with site(tmp_path, **ASKED) as at:
        run = await at.started()
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        await at.evaluate(run, "client-1", 1)
        names = {name for name in names_of(await told(at)) if name.startswith("elsa_")}
    assert "elsa_cloud_run_loss" in names
    assert [name for name in sorted(names) if f"| `{name}` |" not in LISTED] == []
    listed = re.findall(r"^\| `(elsa_(?:cloud|rpc)_\w+)` \|", LISTED, re.MULTILINE)
    assert sorted(set(listed) - names) == []


@run_async
async def test_figures_that_came_too_late_are_not_read_afterwards(tmp_path):
    """Of a loop that was busy for long, nothing more is asked by those who gave up."""
    figures = CloudMetrics(None, None, None, state=tmp_path, database="sqlite://", clock=float)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(metrics, "ANSWER_S", 0.01)
        list(figures.collect())  # on the loop itself, which cannot answer meanwhile
    while not (late := asyncio.all_tasks() - {asyncio.current_task()}):
        await asyncio.sleep(0)  # the loop comes to it now
    assert await asyncio.gather(*late) == [[]]  # there is no store that it could have read


@run_async
async def test_a_cloud_is_ready_while_it_serves(tmp_path):
    def asked(address):
        with grpc.insecure_channel(address) as channel:
            return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status

    async with site(tmp_path, **ASKED) as at:
        readiness = at.cloud.monitoring.readiness
        answer = await asyncio.to_thread(asked, at.cloud.monitoring.probes.address)
        assert answer == health_pb2.HealthCheckResponse.SERVING
    assert not readiness.ready


@run_async
async def test_the_cloud_says_that_its_loop_turns(tmp_path):
    async with site(tmp_path) as at:
        readiness = at.cloud.monitoring.readiness
        while readiness.turned_s is None:
            await asyncio.sleep(0)
        assert readiness.lives
