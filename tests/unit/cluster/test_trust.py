"""Laws of the whole score, on simulated fleets of 20 in which 4 are bad in one way: told apart, the rare kept."""

from dataclasses import replace

import numpy as np
import pytest
import simulated_clients as simulated
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from elsa.cluster.trust import Parts, course, of_fingerprints, smoothed, too_low, with_updates
from elsa.errors import SpecError

EVEN = (0,) * 7 + (1,) * 7 + (2,) * 6
RARE_PAIR = (0,) * 9 + (1,) * 9 + (2,) * 2
LONE = (0,) * 10 + (1,) * 9 + (2,)
SEEDS = range(4)


def scores(fleet: simulated.Fleet, order: np.ndarray | None = None) -> np.ndarray:
    """The score of each client by its row in `fleet`, measured with the rows in another order if one is given."""
    order = np.arange(len(fleet.first)) if order is None else order
    ids = [f"client-{row:02d}" for row in order]
    parts = of_fingerprints(
        ids,
        first=fleet.first[order],
        again=fleet.again[order],
        repeated=fleet.repeated[order],
        divergence=simulated.pairwise_divergence(fleet.first[order]),
        probabilities=fleet.probabilities[order],
        arrival=fleet.bad[order].astype(float),  # a copy comes after its original
    )
    updates = dict(zip(ids, fleet.updates[order], strict=True))
    told = with_updates(parts, updates, dict(zip(ids, fleet.groups[order].tolist(), strict=True)))
    return np.array([told[name].score for name in sorted(told)])


def made(way: str, seed: int, groups: tuple[int, ...], steps: int = 15) -> simulated.Fleet:
    if way == "shuffled":
        return simulated.fleet(seed, groups=groups, bad=4, how="shuffled", steps=steps)
    honest = simulated.fleet(seed, groups=groups, steps=steps)
    return {
        "random": lambda: simulated.with_random_embeddings(honest, seed, 4),
        "copied": lambda: simulated.with_copies(honest, seed, 4, blur=0.01),
        "amplified": lambda: simulated.with_amplified_updates(honest, seed, 4, factor=10),
        "unsteady": lambda: simulated.with_unsteady_repeats(honest, seed, 4, share=1),
    }[way]()


WAYS = ("shuffled", "random", "copied", "amplified", "unsteady")


@pytest.mark.parametrize("groups", [EVEN, RARE_PAIR, LONE], ids=["even", "rare pair", "lone"])
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_bad_client_is_told_from_honest_ones(way: str, groups: tuple[int, ...]) -> None:
    areas = []
    for seed in SEEDS:
        fleet = made(way, seed, groups)
        areas.append(roc_auc_score(~fleet.bad, scores(fleet)))
    assert np.mean(areas) >= 0.95, areas


@pytest.mark.parametrize("groups", [RARE_PAIR, LONE], ids=["pair", "lone"])
@pytest.mark.parametrize("way", WAYS)
def test_honest_clients_of_a_rare_kind_keep_half_the_trust_or_more(way: str, groups: tuple[int, ...]) -> None:
    for seed in SEEDS:
        fleet = made(way, seed, groups)
        rare = (fleet.groups == 2) & ~fleet.bad
        assert (scores(fleet)[rare] >= 0.5).all()


@pytest.mark.parametrize("steps", [5, 15, 60])
@pytest.mark.parametrize("size", range(3, 9))
def test_honest_clients_of_a_small_fleet_keep_half_the_trust_or_more_however_unlike(size: int, steps: int) -> None:
    for seed in range(8):
        unlike = tuple(np.random.default_rng(seed).permutation(8)[:size] % len(simulated.KINDS))
        fleet = simulated.fleet(seed, groups=unlike, steps=steps)
        for together in (np.zeros(size, int), np.arange(size) % 2):
            assert scores(replace(fleet, groups=together)).min() >= 0.5


@pytest.mark.parametrize("steps", [5, 60])
def test_shuffled_labels_show_after_little_and_after_much_training(steps: int) -> None:
    fleets = [made("shuffled", seed, EVEN, steps) for seed in SEEDS]
    assert np.mean([roc_auc_score(~fleet.bad, scores(fleet)) for fleet in fleets]) >= 0.95


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_shares_and_do_not_depend_on_the_order_of_clients(way: str) -> None:
    fleet = made(way, 1, RARE_PAIR)
    expected = scores(fleet)
    assert ((expected >= 0) & (expected <= 1)).all()
    order = np.random.default_rng(5).permutation(len(expected))
    np.testing.assert_allclose(scores(fleet, order), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_clients_get_the_neutral_consistency(count: int) -> None:
    fleet = simulated.fleet(0, groups=(0,) * count)
    parts = of_fingerprints(
        [f"c{i}" for i in range(count)],
        first=fleet.first,
        again=fleet.again,
        repeated=fleet.repeated,
        divergence=fleet.divergence,
        probabilities=fleet.probabilities,
    )
    assert {part.consistency for part in parts.values()} == {0.75}
    assert {part.originality for part in parts.values()} == {1.0}


def test_a_client_without_an_update_keeps_its_parts() -> None:
    part = Parts(consistency=0.9, repeatability=1, originality=1, direction=0.5)
    assert with_updates({"a": part}, {}, {}) == {"a": part}


def test_smoothing_keeps_four_fifths_of_the_old_score() -> None:
    assert smoothed({"a": 1.0, "b": 0.5}, {"a": 0.0, "c": 0.3}) == pytest.approx({"a": 0.8, "b": 0.5, "c": 0.3})


HONEST = {f"client-{i}": 0.9 + 0.01 * i for i in range(6)}


def test_a_client_far_below_the_others_is_too_low_and_nobody_else_and_the_reason_is_said() -> None:
    aside = too_low(HONEST | {"low": 0.2})
    assert set(aside.reasons) == {"low"}
    assert "0.200" in aside.reasons["low"] and "median" in aside.reasons["low"]
    assert too_low(HONEST).reasons == {}


def test_among_equals_a_small_difference_is_not_too_low() -> None:
    assert too_low({f"client-{i}": 0.95 for i in range(9)} | {"rare": 0.52}).reasons == {}


def test_a_client_below_the_least_trust_is_too_low() -> None:
    aside = too_low(HONEST | {"rare": 0.55}, min_trust=0.6)
    assert set(aside.reasons) == {"rare"} and "min_trust 0.6" in aside.reasons["rare"]


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8), st.floats(0, 0.99))
def test_somebody_is_always_left_and_nobody_above_a_client_that_is_left_is_too_low(
    scores: dict[str, float], min_trust: float
) -> None:
    aside = too_low(scores, min_trust)
    left = [score for name, score in scores.items() if name not in aside.reasons]
    assert bool(left) == bool(scores)
    assert all(scores[name] < min(left) for name in aside.reasons)


def test_nobody_is_too_low_where_everybody_would_be_and_it_is_said() -> None:
    aside = too_low(dict.fromkeys("abc", 0.1), min_trust=0.3)
    assert aside.reasons == {} and "all 3 clients" in aside.note


def test_without_clients_nobody_is_too_low() -> None:
    aside = too_low({}, min_trust=0.3)
    assert aside.reasons == {} and not aside.note


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_a_least_trust_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(SpecError, match="min_trust"):
        too_low(HONEST, min_trust=value)


def test_a_course_tells_who_goes_nowhere_where_single_updates_do_not() -> None:
    draw = np.random.default_rng(0)
    names = [f"c{n:02}" for n in range(12)]
    along = draw.normal(size=256)
    clusters = dict.fromkeys(names, 0)
    parts = {name: Parts(consistency=1.0, repeatability=1.0, originality=1.0) for name in names}
    courses: dict[str, np.ndarray] = {}
    for _ in range(12):
        updates = {name: 4 * draw.normal(size=256) + (along if name > "c01" else 0) for name in names}
        courses = {name: course(courses.get(name), update) for name, update in updates.items()}
    single, whole = with_updates(parts, updates, clusters), with_updates(parts, updates, clusters, courses)
    assert {name: own.norm for name, own in single.items()} == {name: own.norm for name, own in whole.items()}
    honest = min(whole[name].direction for name in names[2:])
    assert max(whole[name].direction for name in names[:2]) < 0.5 < 0.8 < honest
    apart = {how: honest_apart(found, names) for how, found in (("single", single), ("whole", whole))}
    assert apart["whole"] > apart["single"] + 0.2


def honest_apart(found: dict[str, Parts], names: list[str]) -> float:
    """How far the least honest direction is above the best of the two others."""
    return min(found[name].direction for name in names[2:]) - max(found[name].direction for name in names[:2])


def test_a_course_forgets() -> None:
    np.testing.assert_allclose(course(None, np.ones(3)), 1)
    np.testing.assert_allclose(course(course(None, np.ones(3)), np.zeros(3)), 0.8)
