"""An edge that pulls late is told how much of the round is left, not how long the round is."""

import pytest
from cloud_harness import EDGES, adapter, run_async, site, spec

from elsa.v1 import adapter_pb2


async def header(at, run, version, edge="edge-1"):
    request = adapter_pb2.PullAdapterRequest(run_id=run, node_id=edge, version=version)
    return (await anext(aiter(at.adapters.PullAdapter(request, timeout=20)))).header


async def shortened(at):
    """A run in its fourth round, which has 90 of the specification's 600 seconds."""
    run = await at.started(spec(training={"rounds": 9}))
    for version in range(3):
        at.clock.now += 60
        for edge in EDGES:
            await at.push(run, edge, adapter(version), version=version)
        await at.closed(run, version + 1)
    return run


@run_async
async def test_what_is_left_is_the_deadline_less_what_has_passed(tmp_path):
    async with site(tmp_path) as at:
        run = await shortened(at)
        for passed in (0, 40, 49):
            at.clock.now += passed
            told = await header(at, run, 3)
            assert told.deadline_s == 90
            assert told.left_s == pytest.approx({0: 90, 40: 50, 49: 1}[passed])


@run_async
async def test_past_a_deadline_that_has_not_closed_the_round_the_specifications_is_left(tmp_path):
    async with site(tmp_path) as at:
        run = await shortened(at)
        at.clock.now += 91  # no edge has delivered: the round stays open
        assert (await header(at, run, 3)).left_s == pytest.approx(600 - 91)


@run_async
async def test_the_time_that_the_cloud_was_away_is_left(tmp_path):
    async with site(tmp_path) as at:
        run = await shortened(at)
        clock = at.clock
    clock.now += 1000
    async with site(tmp_path, clock) as at:
        assert (await header(at, run, 3)).left_s == pytest.approx(90)


@run_async
async def test_nothing_is_told_of_a_version_on_which_no_round_is_open(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(training={"rounds": 1}))
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        told = await header(at, run, 1)
        assert not told.HasField("left_s") and not told.HasField("deadline_s")
