"""The laws of runs whose clients take different numbers of steps, at the cloud: what is merged, what is refused."""

import grpc
import numpy as np
import pytest
from cloud_harness import CLIENTS, EDGES, adapter, refused, run_async, site, spec
from cluster_harness import value_of
from fingerprint_harness import TRAINING
from plan_harness import PLANNED, join_planned

from elsa.aggregate.fednova import fednova
from elsa.errors import MalformedError
from elsa.v1 import fleet_pb2
from elsa.wire.adapter import decode_adapter, encode_adapter
from services.cloud.merging import merged
from services.cloud.round_records import MIXED, Update

TRAINED = {"rounds": 3, "edge_rounds": 2, "local_steps": 20, "steps": "proportional"}
TEXT = spec(**{**PLANNED, "training": TRAINED})
BEFORE = adapter(1)


async def training(at, text=TEXT):
    """A run whose splits are planned, once it trains."""
    await at.register()
    run = await at.submit(text)
    await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
    for edge in EDGES:
        await at.push(run, edge, adapter(1), initial=True)
        await join_planned(at, run, edge)
    for number, client in enumerate(CLIENTS):
        await join_planned(at, run, client, near=EDGES[number % 2])
    await at.reach(run, TRAINING)
    return run


def nova(before, *made):
    """By hand: of (rows, steps, value)."""
    total = sum(rows for rows, _, _ in made)
    effective = sum(rows * steps for rows, steps, _ in made) / total
    return pytest.approx(
        before + effective * sum(rows * (value - before) / steps for rows, steps, value in made) / total
    )


@run_async
async def test_each_version_is_evened_out_from_the_one_before(tmp_path):
    async with site(tmp_path) as at:
        run, value = await training(at), 1.0
        for version, made in enumerate([((10, 40.0, 5.0), (30, 2.5, 2.0)), ((10, 3.0, 4.0), (10, 12.0, -8.0))]):
            for edge, (rows, steps, own) in zip(EDGES, made, strict=True):
                await at.push(run, edge, adapter(own), version, rows=rows, effective_steps=steps)
            await at.closed(run, version + 1)
            reached = await value_of(at, run, version + 1)
            assert reached == nova(value, *made)
            value = reached


@run_async
async def test_steps_beyond_what_the_run_has_are_refused(tmp_path):
    async with site(tmp_path) as at:
        run = await training(at)
        for steps in (0.0, 0.99, -1.0, 40.01, float("nan"), float("inf")):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "header.effective_steps", "from 1 to 40"):
                await at.push(run, "edge-1", adapter(2), effective_steps=steps)
        assert await at.push(run, "edge-1", adapter(2), effective_steps=40 * (1 + 1e-12))  # a sum that was rounded


@run_async
async def test_where_all_take_as_many_steps_none_are_told(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for steps in (1.0, -1.0, float("nan")):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "header.effective_steps", "0 where all clients"):
                await at.push(run, "edge-1", adapter(2), effective_steps=steps)
        for edge in EDGES:
            await at.push(run, edge, adapter(2))
        await at.closed(run, 1)
        assert await value_of(at, run, 1) == 2.0


def update(edge, cluster, rows, steps, value, **more):
    kept = Update(
        run_id="r", version=1, edge_id=edge, cluster=cluster, rows=rows, effective_steps=steps, sha256="", **more
    )
    return kept, adapter(value)


def value_in(file):
    return float(next(iter(decode_adapter(file.data).values()))[0, 0])


def test_a_cluster_s_adapter_is_evened_out_from_the_version_that_all_began_from():
    first, second, third = (10, 4.0, 5.0), (30, 16.0, 3.0), (20, 1.0, -2.0)
    made = merged([update("e1", 0, *first), update("e2", 0, *second), update("e2", 1, *third)], BEFORE)
    assert value_in(made.whole) == nova(1.0, first, second, third)
    assert value_in(made.clusters[0]) == nova(1.0, first, second)
    assert value_in(made.clusters[1]) == -2.0


def test_what_is_mixed_is_evened_out_with_all_and_in_no_cluster():
    first, mixed, old = (10, 4.0, 5.0), (30, 16.0, 3.0), (20, 1.0, -2.0)
    made = merged(
        [update("e1", 0, *first), update("e1", MIXED, *mixed), update("e2", 1, *old, outdated=True)], BEFORE
    )
    assert value_in(made.whole) == nova(1.0, first, mixed, old)
    assert {cluster: value_in(file) for cluster, file in made.clusters.items()} == {0: 5.0}


def test_two_levels_are_the_rule_over_all_clients():
    """As edges make it of their clients, and the cloud of the edges."""
    draw, before = np.random.default_rng(3), decode_adapter(BEFORE)
    clients = {
        f"c{n}": (
            float(n + 1),
            float(1 + n * n),
            {name: draw.normal(size=t.shape).astype(np.float32) for name, t in before.items()},
        )
        for n in range(5)
    }
    given = []
    for edge, names in (("e1", ("c0", "c3")), ("e2", ("c1", "c2", "c4"))):
        made, steps = fednova(before, {name: clients[name] for name in names})
        rows = int(sum(clients[name][0] for name in names))
        given.append((update(edge, MIXED, rows, steps, 0)[0], encode_adapter(made)))
    expected, _ = fednova(before, clients)
    for name, values in decode_adapter(merged(given, BEFORE).whole.data).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


def test_where_no_steps_are_told_the_version_before_is_of_no_account():
    given = [update("e1", MIXED, 10, 0.0, 5.0), update("e2", MIXED, 30, 0.0, 1.0)]
    assert merged(given, BEFORE).whole == merged(given).whole and value_in(merged(given).whole) == 2.0


def test_steps_without_the_version_before_are_refused():
    with pytest.raises(MalformedError, match="what it began from"):
        merged([update("e1", MIXED, 10, 2.0, 5.0)])
