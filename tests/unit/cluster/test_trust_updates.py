"""Laws of what updates tell: their direction and their length, against those of their cluster."""

import numpy as np
import pytest
import simulated_clients as simulated
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elsa.cluster.trust_updates import NEUTRAL, update_agreement, without_self

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
    assert direction[0] == 0 and direction[1:].min() > 0.8


@pytest.mark.parametrize("factor", [3.0, 10.0, 1e6])
def test_an_amplified_update_is_trusted_by_as_much_less_as_it_is_too_long(factor: float) -> None:
    updates = FLEET.updates.copy()
    updates[0] *= factor
    _, norm = update_agreement(updates, FLEET.groups)
    assert 0.5 / factor < norm[0] < 1.5 / factor and norm[1:].min() == 1


def test_a_cluster_of_one_is_measured_by_the_length_of_all_updates() -> None:
    groups = FLEET.groups.copy()
    groups[0] = 9
    updates = FLEET.updates.copy()
    updates[0] *= 10
    direction, norm = update_agreement(updates, groups)
    assert direction[0] > 0.8 and norm[0] < 0.2


def test_an_amplified_half_of_a_cluster_does_not_hide_itself() -> None:
    updates, rows = FLEET.updates.copy(), np.arange(4)
    updates[rows] *= 10
    _, norm = update_agreement(updates, FLEET.groups)
    assert norm[rows].max() < 0.2 and norm[4:].min() == 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_updates_have_nothing_to_be_measured_by(count: int) -> None:
    direction, norm = update_agreement(FLEET.updates[:count], np.zeros(count, int))
    assert direction.tolist() == norm.tolist() == [NEUTRAL] * count


def test_updates_of_nothing_are_no_direction_and_raise_no_error() -> None:
    updates = FLEET.updates.copy()
    updates[0] = 0
    direction, norm = update_agreement(updates, FLEET.groups)
    assert direction[0] == 0 and norm[0] == 1
    direction, norm = update_agreement(np.zeros((4, 5)), np.zeros(4, int))
    assert direction.tolist() == [NEUTRAL] * 4 and norm.tolist() == [1.0] * 4


def test_a_random_projection_of_updates_tells_the_same() -> None:
    updates = FLEET.updates.copy()
    updates[0] *= -1
    updates[1] *= 10
    down = np.random.default_rng(0).normal(size=(updates.shape[1], 256))
    direction, norm = update_agreement(updates @ down, FLEET.groups)
    assert direction[0] < 0.2 and norm[1] < 0.2 and direction[2:].min() > 0.7 and norm[2:].min() == 1
