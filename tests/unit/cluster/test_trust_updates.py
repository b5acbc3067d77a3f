"""Laws of what updates tell: their direction and their length, against those of their cluster."""

import numpy as np
import pytest
import simulated_clients as simulated
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elsa.cluster.trust_updates import reliability, update_agreement, without_self

FLEET = simulated.fleet(2, groups=(0,) * 8 + (1,) * 7)


@given(st.integers(2, 9).flatmap(lambda count: arrays(np.float64, (count, 3), elements=st.integers(-3, 3))))
def test_the_median_without_oneself_is_that_of_all_other_rows(values: np.ndarray) -> None:
    expected = [np.median(np.delete(values, row, axis=0), axis=0) for row in range(len(values))]
    np.testing.assert_allclose(without_self(values), expected)


def test_honest_updates_of_each_cluster_are_trusted() -> None:
    direction, norm = update_agreement(FLEET.updates, FLEET.groups)
    assert direction.min() > 0.8 and norm.tolist() == [1.0] * 15


def test_an_update_against_the_others_has_no_trust_in_its_direction() -> None:
    updates = FLEET.updates.copy()
    updates[0] *= -1
    direction, _ = update_agreement(updates, FLEET.groups)
    assert direction[0] < 0.3 and direction[1:].min() > 0.8


@pytest.mark.parametrize("factor", [3.0, 10.0, 1e6])
def test_an_amplified_update_is_trusted_by_as_much_less_as_it_is_too_long(factor: float) -> None:
    updates = FLEET.updates.copy()
    updates[0] *= factor
    _, norm = update_agreement(updates, FLEET.groups)
    assert 0.5 / factor < norm[0] < 1.5 / factor and norm[1:].min() == 1


def test_an_amplified_half_of_a_cluster_does_not_hide_itself() -> None:
    updates, rows = FLEET.updates.copy(), np.arange(4)
    updates[rows] *= 10
    _, norm = update_agreement(updates, FLEET.groups)
    assert norm[rows].max() < 0.2 and norm[4:].min() == 1


@pytest.mark.parametrize("count", [1, 2])
def test_in_a_cluster_of_one_or_two_only_what_is_far_too_long_for_the_whole_fleet_is_a_fault(count: int) -> None:
    groups, updates = FLEET.groups.copy(), FLEET.updates.copy()
    groups[:count] = 9
    updates[0] *= -2
    direction, norm = update_agreement(updates, groups)
    assert direction[:count].tolist() == norm[:count].tolist() == [1.0] * count
    updates[0] *= 5
    direction, norm = update_agreement(updates, groups)
    assert direction[0] == 1 and norm[0] < 0.3 and norm[1:].min() == 1


@pytest.mark.parametrize("groups", [[0], [0, 0], [0, 1, 2], [0, 0, 1, 1]])
def test_where_no_cluster_has_a_majority_nothing_is_held_against_an_update(groups: list[int]) -> None:
    updates = FLEET.updates[: len(groups)].copy()
    updates[0] *= -10
    direction, norm = update_agreement(updates, np.array(groups))
    assert direction.tolist() == norm.tolist() == [1.0] * len(groups)


def test_what_is_usual_in_the_fleet_is_not_too_long_in_a_cluster_of_short_updates() -> None:
    updates = FLEET.updates.copy()
    updates[:5] /= 4
    _, norm = update_agreement(updates, FLEET.groups)
    assert norm.tolist() == [1.0] * 15


@given(st.integers(2, 30), st.floats(0.05, 0.95))
def test_reliability_is_that_of_a_mean_of_parallel_measurements(count: int, likeness: float) -> None:
    expected = count * likeness / (1 + (count - 1) * likeness)
    assert reliability(np.sqrt(likeness * expected), count) == pytest.approx(expected)


def test_a_direction_that_nobody_shares_is_held_against_nobody_and_a_shared_one_against_who_leaves_it() -> None:
    draw = np.random.default_rng(0)
    strangers = draw.normal(size=(4, 256))
    direction, _ = update_agreement(strangers, np.zeros(4, int))
    assert direction.min() > 0.8
    alike = draw.normal(size=256) + 0.5 * draw.normal(size=(4, 256))
    alike[0] = draw.normal(size=256)
    direction, _ = update_agreement(alike, np.zeros(4, int))
    assert direction[0] < 0.7 and direction[1:].min() > 0.9


def test_updates_of_nothing_are_no_direction_and_raise_no_error() -> None:
    updates = FLEET.updates.copy()
    updates[0] = 0
    direction, norm = update_agreement(updates, FLEET.groups)
    assert direction[0] < 0.3 and norm[0] == 1
    direction, norm = update_agreement(np.zeros((4, 5)), np.zeros(4, int))
    assert direction.tolist() == [1.0] * 4 and norm.tolist() == [1.0] * 4


def test_a_random_projection_of_updates_tells_the_same() -> None:
    updates = FLEET.updates.copy()
    updates[0] *= -1
    updates[1] *= 10
    down = np.random.default_rng(0).normal(size=(updates.shape[1], 256))
    direction, norm = update_agreement(updates @ down, FLEET.groups)
    assert direction[0] < 0.3 and norm[1] < 0.2 and direction[2:].min() > 0.7 and norm[2:].min() == 1
