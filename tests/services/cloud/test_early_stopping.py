"""A run that may stop early: versions are judged once, the run ends when they get no better, the best is exported."""

import pytest
from cloud_harness import CLIENTS, EDGES, Clock, adapter, run_async, site, spec
from cluster_harness import EIGHT, clustering_run, one_round, text_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from elsa.errors import SpecError
from elsa.spec import EarlyStoppingSpec, RoundsSpec, RunSpec
from elsa.v1 import fleet_pb2, run_pb2
from services.cloud.round_records import Round
from services.cloud.rounds import enough_evaluated
from services.cloud.stopping import best_of, why_to_stop

COMPLETED, TRAINING = fleet_pb2.RUN_STATE_COMPLETED, fleet_pb2.RUN_STATE_TRAINING


def stopping(rounds=9, quorum=1.0, **given):
    training = {"rounds": rounds, "early_stopping": {"patience": 2, **given}}
    return spec(training=training, rounds={"quorum": quorum, "adaptive": False})


async def make(at, run, version, edges=EDGES):
    """Close the round that makes `version`."""
    for edge in edges:
        await at.push(run, edge, adapter(version), version=version - 1)
    await at.closed(run, version)


async def say(at, run, version, loss, clients=CLIENTS, accuracy=0.5):
    for client in clients:
        await at.evaluate(run, client, version, loss=loss, accuracy=accuracy)


async def exported(at, run):
    """The first of the numbers that are exported where no version is named."""
    data, name = bytearray(), ""
    async for message in at.runs.ExportAdapter(run_pb2.ExportAdapterRequest(run_id=run), timeout=30):
        name = message.file.name or name
        if name.endswith(".safetensors"):
            data += message.chunk.data
    return float(next(iter(load(bytes(data)).values())).flat[0])


@run_async
async def test_a_run_ends_once_its_versions_get_no_better_and_the_best_is_exported(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping())
        for version, loss in enumerate([2.0, 1.0, 1.2]):
            await say(at, run, version, loss)
            await make(at, run, version + 1)
        assert (await at.get(run)).best_version == 1
        await say(at, run, 3, 1.0)
        ended = await at.reach(run, COMPLETED)
        assert ended.state_changed.reason == (
            "stopped early: loss 1 of version 1 was not bettered in 2 versions: 1.2 of version 2, 1 of version 3; "
            "version 1 is the best and the one to export"
        )
        assert (await at.get(run)).version == 3 and await exported(at, run) == 1.0


@run_async
async def test_a_run_whose_versions_get_better_makes_all_rounds_and_exports_the_best(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping(rounds=3, metric="accuracy"))
        for version, accuracy in enumerate([0.1, 0.2, 0.9]):
            await say(at, run, version, 1.0, accuracy=accuracy)
            await make(at, run, version + 1)
        await say(at, run, 3, 1.0, accuracy=0.8)
        ended = await at.reach(run, COMPLETED)
        assert ended.state_changed.reason == "version 2 is the best and the one to export"
        assert await exported(at, run) == 2.0


@run_async
async def test_a_version_is_judged_once_its_quorum_has_reported(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping(quorum=0.5))
        await say(at, run, 0, 1.0, CLIENTS[:1])
        assert not (await at.get(run)).HasField("best_version")
        await say(at, run, 0, 1.0, CLIENTS[1:2])
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).best_version == 0


@run_async
async def test_a_version_that_too_few_evaluated_gets_no_score_when_the_next_is_made(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping())
        await say(at, run, 0, 0.1, CLIENTS[:1])
        await make(at, run, 1)
        await at.cloud.engine.advance(run, at.clock())
        assert not (await at.get(run)).HasField("best_version")
        await say(at, run, 1, 2.0)
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).best_version == 1
        await say(at, run, 0, 0.1, CLIENTS[1:])
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).best_version == 1


@run_async
async def test_a_version_that_too_few_evaluated_gets_no_score_at_the_deadline(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping())
        await say(at, run, 0, 0.1, CLIENTS[:3])
        await at.push(run, "edge-1", adapter(1))  # so that the round has something at its deadline
        at.clock.now += 600
        await at.cloud.engine.advance(run, at.clock())
        await at.closed(run, 1)
        assert not (await at.get(run)).HasField("best_version")
        await say(at, run, 0, 0.1, CLIENTS[3:])
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).best_version == 0


@run_async
async def test_a_run_none_of_whose_versions_its_quorum_evaluated_exports_the_last(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping(rounds=2))
        for version in (0, 1):
            await say(at, run, version, float(version), CLIENTS[:1])
            await make(at, run, version + 1)
        await say(at, run, 2, 3.0, CLIENTS[:1])
        at.clock.now += 600
        await at.cloud.engine.advance(run, at.clock())
        await at.reach(run, COMPLETED)
        assert await exported(at, run) == 2.0


@given(
    clients=st.sets(st.sampled_from("abcdefgh"), min_size=1),
    reported=st.sets(st.sampled_from("abcdefgh")),
    gone=st.sets(st.sampled_from("abcdefgh")),
    quorum=st.floats(0.1, 1.0),
)
def test_enough_have_reported_once_the_quorum_of_those_there_has(clients, reported, gone, quorum):
    enough = enough_evaluated(RoundsSpec(quorum=quorum), clients, reported, gone)
    there = {client for client in clients if client not in gone or client in reported}
    assert enough == (bool(there & reported) and len(there & reported) / len(there) >= quorum - 1e-8)


@run_async
async def test_what_was_judged_outlives_the_cloud(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await at.started(stopping())
        for version, loss in enumerate([1.0, 2.0]):
            await say(at, run, version, loss)
            await make(at, run, version + 1)
    async with site(tmp_path, clock) as at:
        assert (await at.get(run)).best_version == 0
        await say(at, run, 2, 3.0)
        assert "loss 1 of version 0" in (await at.reach(run, COMPLETED)).state_changed.reason
        assert await exported(at, run) == 0.0


@run_async
async def test_evaluations_that_come_after_the_judgement_change_nothing_of_it(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(stopping(quorum=0.5, patience=1))
        await say(at, run, 0, 1.0, CLIENTS[:2])
        await at.cloud.engine.advance(run, at.clock())
        await say(at, run, 0, 900.0, CLIENTS[2:])
        await make(at, run, 1, EDGES[:1])
        await say(at, run, 1, 2.0, CLIENTS[:2])
        assert "loss 1 of version 0" in (await at.reach(run, COMPLETED)).state_changed.reason


@run_async
async def test_with_clusters_the_metric_may_be_that_of_each_clients_cluster(tmp_path):
    async with site(tmp_path) as at:
        early = {"patience": 1, "adapter": "cluster"}
        text = text_of(training={"rounds": 6, "early_stopping": early})
        run = await clustering_run(at, text)
        told = [(3.0, None), (2.0, 1.0), (1.0, 1.5)]
        for version, (loss, own) in enumerate(told):
            if version:
                await one_round(at, run, version - 1)
            for number, client in enumerate(EIGHT):
                mine = (
                    None
                    if own is None
                    else run_pb2.Evaluation(version=version, rows=3, loss=own, accuracy=0.5, cluster=number % 2)
                )
                await at.evaluate(run, client, version, loss=loss, own=mine)
        ended = await at.reach(run, COMPLETED)
        assert "loss 1 of version 1 was not bettered in 1 versions: 1.5 of version 2" in ended.state_changed.reason
        folders = {path.name for path in (tmp_path / "cloud" / "exports" / run).iterdir()}
        assert folders == {"version-1", "version-1-cluster-0", "version-1-cluster-1"}


def rounds_of(scores):
    return [Round(run_id="r", version=n, opened_unix_s=0.0, score=score) for n, score in enumerate(scores)]


def marks(known, min_delta):
    """The places in `known` of the scores that bettered the mark that stood."""
    found = []
    for place, score in enumerate(known):
        if not found or score < known[found[-1]] - min_delta:
            found.append(place)
    return found


@given(
    st.lists(st.none() | st.integers(-5, 5).map(float), max_size=12),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.5]),
)
def test_a_run_stops_just_when_patience_versions_did_not_better_the_mark(scores, patience, min_delta):
    known = [score for score in scores if score is not None]
    stops = bool(why_to_stop(EarlyStoppingSpec(patience=patience, min_delta=min_delta), rounds_of(scores)))
    assert stops == (bool(known) and len(known) - 1 - marks(known, min_delta)[-1] >= patience)
    if known:
        assert scores[best_of(rounds_of(scores))] == min(known)


@pytest.mark.parametrize(("min_delta", "stops"), [(0.0, False), (0.05, False), (0.2, True)])
def test_a_gain_below_min_delta_does_not_count_as_better(min_delta, stops):
    scores = [1.0, 0.9, 0.81]  # from the mark: 0.1, then 0.19
    why = why_to_stop(EarlyStoppingSpec(patience=2, min_delta=min_delta), rounds_of(scores))
    assert bool(why) is stops
    assert why == "" or "was not bettered by more than 0.2 in 2 versions" in why
    assert best_of(rounds_of(scores)) == 2


def test_gains_below_min_delta_add_up_from_the_mark():
    spec_of = EarlyStoppingSpec(patience=2, min_delta=0.15)
    assert why_to_stop(spec_of, rounds_of([1.0, 0.9, 0.8])) == ""
    assert why_to_stop(spec_of, rounds_of([1.0, 0.9, 0.8, 0.75, 0.7]))


def test_without_the_field_no_run_stops_early_and_bounds_are_told():
    assert RunSpec.from_yaml(spec()).training.early_stopping is None
    for bad in ({"patience": 0}, {"min_delta": -1}, {"metric": "f1"}):
        with pytest.raises(SpecError, match=r"training\.early_stopping"):
            RunSpec.from_yaml(f"training: {{early_stopping: {bad}}}".replace("'", ""))
