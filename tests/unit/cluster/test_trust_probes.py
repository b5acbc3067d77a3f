"""Laws of what fingerprints tell, part by part."""

import numpy as np
import pytest
import simulated_clients as simulated
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from elsa.cluster.trust_probes import (
    NEUTRAL,
    agreement,
    consistency,
    knowledge,
    likeness,
    nearest,
    originality,
    plausibility,
    repeatability,
    standing,
)

FLEET = simulated.fleet(3, groups=(0,) * 8 + (1,) * 7)
NEAR = nearest(FLEET.divergence)


@pytest.mark.parametrize("total", [1, 2, 5, 150, 1100])
def test_nearest_agrees_with_sorting_each_row(total: int) -> None:
    half = np.random.default_rng(total).random((total, total))
    divergence = half + half.T
    found = nearest(divergence, 7)
    np.fill_diagonal(divergence, np.inf)
    expected = np.argsort(divergence, axis=1)[:, : min(7, total - 1)]
    np.testing.assert_array_equal(found.who, expected)
    np.testing.assert_array_equal(found.divergence, np.take_along_axis(divergence, expected, axis=1))


def test_clients_that_answer_alike_agree_wholly_and_opposites_not_at_all() -> None:
    same = np.tile([1.0, 0.0], (5, 4, 1))
    same[4] = [0.0, 1.0]
    near = nearest(np.ones((5, 5)) - np.eye(5), 4)
    np.testing.assert_allclose(agreement(same, near), [1, 1, 1, 1, 0], atol=1e-12)


def test_answers_without_a_bearing_on_the_probe_hold_no_knowledge() -> None:
    probabilities = FLEET.probabilities.copy()
    probabilities[0] = probabilities[0].mean(axis=0)
    told = knowledge(probabilities)
    assert told[0] < 0.4 and told[1:].min() > 0.8


FIGURES = st.lists(st.floats(0, 10), min_size=1, max_size=20).map(np.array)


@given(FIGURES, st.floats(0.1, 10))
def test_a_standing_is_one_from_the_middle_up_and_rises_with_the_figure_at_any_scale(
    figures: np.ndarray, scale: float
) -> None:
    found = standing(figures)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[figures >= np.median(figures)] == 1).all()
    assert (np.diff(found[np.argsort(figures)]) >= 0).all()
    np.testing.assert_allclose(standing(scale * figures), found, rtol=1e-6, atol=1e-9)


@given(st.lists(st.floats(0, 10), min_size=3, max_size=4).map(np.array))
def test_among_three_or_four_an_unlike_figure_is_no_fault(figures: np.ndarray) -> None:
    assert standing(figures).min() > 0.99 or np.median(figures) > 0.9 * figures.max()


@pytest.mark.parametrize("scatter", [0.05, 0.2])
def test_the_same_figure_is_held_against_its_client_the_more_the_more_there_are_and_the_closer_they_lie(
    scatter: float,
) -> None:
    def last(count: int, wide: float) -> float:
        return float(standing(np.append(1 + wide * np.linspace(-1, 1, count), 0.3))[-1])

    told = [last(count, scatter) for count in (3, 5, 8, 20, 200)]
    assert told == sorted(told, reverse=True) and told[0] > 0.95
    assert last(20, scatter / 2) <= told[3]


def test_answers_of_a_neighbour_in_the_wrong_places_are_told_by_agreement() -> None:
    areas = []
    for seed in range(4):
        fleet = simulated.fleet(seed, groups=(0,) * 7 + (1,) * 7 + (2,) * 6)
        rng, bad = np.random.default_rng(seed), np.arange(0, 20, 5)
        probabilities = fleet.probabilities.copy()
        probabilities[bad] = probabilities[bad][:, rng.permutation(simulated.PROBES)]
        fits = consistency(fleet.first, probabilities, nearest(fleet.divergence))
        areas.append(roc_auc_score(~np.isin(np.arange(20), bad), fits))
    assert np.mean(areas) >= 0.95


def test_embeddings_in_the_wrong_places_are_not_plausible_though_their_gaussian_is() -> None:
    first = FLEET.first.copy()
    first[0] = first[0][np.random.default_rng(0).permutation(simulated.PROBES)]
    told = plausibility(first)
    assert told[0] < 0.2 and told[1:].min() > 0.8


def test_likeness_is_one_for_turned_and_scaled_embeddings_and_near_zero_for_noise() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(simulated.DIMENSIONS,) * 2))[0]
    base = FLEET.first[0]
    first = np.stack([base @ turn * 3, base, base, base, rng.normal(size=base.shape)])
    told = likeness(first, nearest(np.ones((5, 5)) - np.eye(5), 4))
    np.testing.assert_allclose(told[0], 1, atol=1e-9)
    assert told[4] < 0.15


def test_shuffled_labels_show_without_probabilities_after_training_of_some_length() -> None:
    areas = []
    for seed in range(4):
        fleet = simulated.fleet(seed, groups=(0,) * 7 + (1,) * 7 + (2,) * 6, bad=4, how="shuffled", steps=60)
        areas.append(roc_auc_score(~fleet.bad, consistency(fleet.first, None, nearest(fleet.divergence))))
    assert np.mean(areas) >= 0.95


@pytest.mark.parametrize("count", [1, 2])
def test_a_fleet_of_one_or_two_is_neither_trusted_nor_distrusted(count: int) -> None:
    first = FLEET.first[:count]
    fits = consistency(first, FLEET.probabilities[:count], nearest(simulated.pairwise_divergence(first)))
    assert fits.tolist() == [NEUTRAL] * count


def test_the_same_answers_repeat_wholly_and_other_probes_answers_not_at_all() -> None:
    twice = np.take_along_axis(FLEET.first, FLEET.repeated[:, :, None], axis=1)
    assert repeatability(FLEET.first, twice, FLEET.repeated).tolist() == [1.0] * 15
    other = np.take_along_axis(FLEET.first, (FLEET.repeated[:, :, None] + 17) % simulated.PROBES, axis=1)
    assert repeatability(FLEET.first, other, FLEET.repeated).max() < 0.3


def test_one_answer_to_every_probe_is_no_repeatability_and_nothing_repeated_no_fault() -> None:
    constant = np.ones_like(FLEET.first)
    assert repeatability(constant, constant[:, :8], FLEET.repeated).tolist() == [0.0] * 15
    assert repeatability(FLEET.first, FLEET.again[:, :0], FLEET.repeated[:, :0]).tolist() == [1.0] * 15


def test_repeatability_does_not_depend_on_the_scale_of_embeddings() -> None:
    expected = repeatability(FLEET.first, FLEET.again, FLEET.repeated)
    np.testing.assert_allclose(repeatability(1e3 * FLEET.first, 1e3 * FLEET.again, FLEET.repeated), expected)


def _copied(times: int) -> np.ndarray:
    first = FLEET.first.copy()
    first[1 : 1 + times] = first[0]
    return first


@pytest.mark.parametrize("times", [1, 4])
def test_all_of_a_group_of_equals_are_distrusted_and_nobody_else(times: int) -> None:
    first = _copied(times)
    own = originality(first, nearest(simulated.pairwise_divergence(first)))
    assert own.tolist() == [0.0] * (1 + times) + [1.0] * (14 - times)


@pytest.mark.parametrize("times", [1, 4])
def test_the_first_to_arrive_of_a_group_of_equals_is_the_original(times: int) -> None:
    first, arrival = _copied(times), np.arange(15.0)[::-1].copy()
    own = originality(first, nearest(simulated.pairwise_divergence(first)), arrival)
    assert np.flatnonzero(own == 0).tolist() == list(range(times))
    assert own[times:].min() == 1


def test_two_equal_clients_alone_are_a_group_of_equals() -> None:
    first = FLEET.first[[0, 0]]
    near = nearest(simulated.pairwise_divergence(first))
    assert originality(first, near).tolist() == [0.0, 0.0]
    assert originality(first, near, np.array([2.0, 1.0])).tolist() == [0.0, 1.0]


def test_equal_answers_of_all_give_finite_scores() -> None:
    first, probabilities = np.ones((4, 8, 3)), np.full((4, 8, 2), 0.5)
    near = nearest(np.zeros((4, 4)))
    for scores in (consistency(first, probabilities, near), consistency(first, None, near), originality(first, near)):
        assert ((scores >= 0) & (scores <= 1)).all()
