"""Landmarks: the clusters of the whole matrix from some of its columns."""

import tracemalloc

import numpy as np
import pytest
from planted import divergences, fleet, names
from sklearn.metrics import adjusted_rand_score

from elsa.cluster.clusters import find
from elsa.cluster.landmarks import find_by_landmarks
from elsa.errors import MalformedError, SpecError


def columns_of(means, covariances):
    return lambda at: divergences(means, covariances, at)


@pytest.mark.parametrize("count", [20, "eigengap"])
def test_landmarks_agree_with_the_whole_matrix_on_5000(count):
    means, covariances, _ = fleet(5_000, 20, 0, apart=0.5)
    ids = names(5_000)
    whole = find(ids, divergences(means, covariances), count=count)
    some = find_by_landmarks(ids, columns_of(means, covariances), landmarks=600, count=count)
    assert len(whole.medoids) == 20
    assert adjusted_rand_score([whole.labels[i] for i in ids], [some.labels[i] for i in ids]) >= 0.95
    assert np.allclose(some.eigenvalues[:20], whole.eigenvalues[:20], rtol=0.1)


def test_all_clients_as_landmarks_give_the_eigenvalues_and_clusters_of_the_whole():
    means, covariances, _ = fleet(60, 4, 0, apart=0.5)
    whole = find(names(60), divergences(means, covariances), count=4)
    some = find_by_landmarks(names(60), columns_of(means, covariances), count=4)
    assert some.eigenvalues == pytest.approx(whole.eigenvalues, rel=1e-3)
    assert some.labels == whole.labels and some.medoids == whole.medoids


def test_the_order_of_clients_is_irrelevant():
    means, covariances, _ = fleet(300, 5, 0)
    ids, order = names(300), np.random.default_rng(7).permutation(300)
    there = find_by_landmarks(ids, columns_of(means, covariances), landmarks=40)
    mixed_up = [ids[at] for at in order]
    assert find_by_landmarks(mixed_up, columns_of(means[order], covariances[order]), landmarks=40) == there


def test_every_cluster_has_a_medoid_among_its_members_even_without_a_landmark():
    means, covariances, _ = fleet(400, 4, 0)
    clusters = find_by_landmarks(names(400), columns_of(means, covariances), landmarks=3, count=3)
    assert set(clusters.medoids) == set(clusters.labels.values())
    assert all(clusters.labels[medoid] == cluster for cluster, medoid in clusters.medoids.items())


def test_a_hundred_thousand_clients_need_no_square_matrix():
    clients, landmarks = 100_000, 50
    group = np.arange(clients) % 5
    places = group + 0.1 * np.random.default_rng(0).standard_normal(clients)
    tracemalloc.start()
    clusters = find_by_landmarks(
        names(clients), lambda at: np.square(places[:, None] - places[at]), landmarks=landmarks, count=5
    )
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert adjusted_rand_score(group, list(clusters.labels.values())) >= 0.95
    assert peak_bytes < 8 * 8 * clients * landmarks


def test_equal_clients_are_one_cluster_and_the_note_says_so():
    clusters = find_by_landmarks(names(50), lambda at: np.zeros((50, len(at))), count=3)
    assert set(clusters.labels.values()) == {0} and "all 50 clients are equal" in clusters.note


def test_what_cannot_be_used_is_refused():
    with pytest.raises(SpecError, match="1 landmarks"):
        find_by_landmarks(names(5), lambda at: np.zeros((5, len(at))), landmarks=1)
    with pytest.raises(MalformedError, match="shape"):
        find_by_landmarks(names(5), lambda at: np.zeros((4, len(at))))
    with pytest.raises(MalformedError, match="NaN"):
        find_by_landmarks(names(5), lambda at: np.full((5, len(at)), np.nan))
