"""Neighbours by landmarks: near ones, enough of them, every copy beside its original."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.cluster import trust_landmarks
from elsa.cluster.trust_landmarks import nearest_by_landmarks
from elsa.cluster.trust_probes import Neighbours, nearest


def by_landmarks(places: np.ndarray, landmarks: int, count: int) -> Neighbours:
    drawn = np.random.default_rng(1).permutation(len(places))[:landmarks]
    return nearest_by_landmarks(apart(places, places[drawn]), lambda rows: apart(places[rows], places[rows]), count)


def apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.square(some[:, None] - others).sum(axis=-1)


def test_one_landmark_and_a_small_fleet_give_the_neighbours_of_the_whole_matrix() -> None:
    places = np.random.default_rng(0).normal(size=(60, 2))
    found, whole = by_landmarks(places, 1, 7), nearest(apart(places, places), 7)
    np.testing.assert_array_equal(found.who, whole.who)
    np.testing.assert_allclose(found.divergence, whole.divergence)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 9))
def test_everybody_has_as_many_neighbours_as_there_are_and_none_is_itself(
    clients: int, landmarks: int, count: int
) -> None:
    places = np.random.default_rng(clients).normal(size=(clients, 2))
    found = by_landmarks(places, landmarks, count)
    assert found.who.shape == (clients, min(count, clients - 1))
    assert (found.who != np.arange(clients)[:, None]).all()
    assert all(len(set(row)) == len(row) for row in found.who.tolist())
    np.testing.assert_allclose(found.divergence, np.square(places[:, None] - places[found.who]).sum(axis=-1))


@pytest.mark.parametrize("largest", [20, 1_000])
def test_a_copy_is_the_nearest_of_its_original(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr(trust_landmarks, "LARGEST_CELL", largest)
    places = np.random.default_rng(0).normal(size=(500, 3))
    places[7], places[400] = places[123], places[11]
    found = by_landmarks(places, 30, 5)
    assert found.who[7, 0] == 123 and found.who[123, 0] == 7 and found.who[400, 0] == 11


def test_nearly_all_nearest_clients_of_planted_groups_are_found() -> None:
    draw = np.random.default_rng(0)
    places = 10 * draw.normal(size=(40, 3))[np.arange(2_000) % 40] + draw.normal(size=(2_000, 3))
    found, whole = by_landmarks(places, 100, 7), nearest(apart(places, places), 7)
    assert np.median(found.divergence[:, 0] / whole.divergence[:, 0]) < 1.5
