"""Clusters: planted groups are found, by every method and in any order of clients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import divergences, fleet, names
from sklearn.metrics import adjusted_rand_score

from elsa.cluster.clusters import find, nearest
from elsa.errors import MalformedError, SpecError


def square(clients: int, groups: int, seed: int = 0, apart: float = 1.0):
    means, covariances, group = fleet(clients, groups, seed, apart)
    return divergences(means, covariances), group


def agreement(clusters, group) -> float:
    return adjusted_rand_score(group, [clusters.labels[name] for name in names(len(group))])


@pytest.mark.parametrize("method", ["spectral", "agglomerative"])
@pytest.mark.parametrize(("clients", "groups"), [(6, 2), (16, 4), (60, 10), (300, 50)])
@pytest.mark.parametrize("asked", ["fixed", "eigengap"])
def test_planted_groups_are_found(method, clients, groups, asked):
    pairs, group = square(clients, groups)
    count = groups if asked == "fixed" else "eigengap"
    clusters = find(names(clients), pairs, method=method, count=count)
    assert agreement(clusters, group) == 1.0
    assert len(clusters.medoids) == groups and clusters.note == ""


def test_large_fleets_are_solved_in_single_precision_and_found_as_well():
    pairs, group = square(1_800, 12, apart=0.6)
    assert agreement(find(names(1_800), pairs, count=12), group) == 1.0
    assert agreement(find(names(1_800), pairs), group) == 1.0


def test_groups_of_very_different_size_are_found():
    pairs, group = square(120, 12)
    keep = np.flatnonzero((group < 3) | (np.arange(120) < 12) & (group < 5))
    few = pairs[np.ix_(keep, keep)]
    clusters = find([names(120)[at] for at in keep], few, count=5)
    assert adjusted_rand_score(group[keep], list(clusters.labels.values())) == 1.0


def test_one_odd_client_does_not_take_the_cluster_of_a_group():
    pairs, group = square(24, 3)
    pairs[0, 1:] = pairs[1:, 0] = 1e6
    clusters = find(names(24), pairs, count=3)
    assert adjusted_rand_score(group[1:], list(clusters.labels.values())[1:]) == 1.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clients", [12, 40, 200])
def test_a_fleet_without_groups_is_one_cluster_by_the_eigengap(clients, seed):
    clusters = find(names(clients), square(clients, 1, seed)[0])
    assert set(clusters.labels.values()) == {0}
    assert "no clear gap" in clusters.note


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(range(14)),
    st.sampled_from(["spectral", "agglomerative", "none"]),
    st.sampled_from([1, 3, 5, "eigengap"]),
    st.sampled_from([0.1, 1.0]),
)
def test_the_order_of_clients_is_irrelevant(order, method, count, apart):
    pairs, _ = square(14, 3, apart=apart)
    ids = names(14)
    mixed_up = find([ids[at] for at in order], pairs[np.ix_(order, order)], method=method, count=count)
    assert mixed_up == find(ids, pairs, method=method, count=count)


def test_the_same_seed_gives_the_same_clusters():
    pairs, _ = square(1_600, 8, apart=0.05)
    assert find(names(1_600), pairs, count=8, seed=(3,)) == find(names(1_600), pairs, count=8, seed=(3,))


def test_clusters_are_numbered_by_the_smallest_id_in_them():
    clusters = find(names(30), square(30, 5)[0], count=5)
    seen = list(dict.fromkeys(clusters.labels[name] for name in names(30)))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["spectral", "agglomerative", "none"])
def test_a_medoid_has_the_least_sum_of_divergences_in_its_cluster(method):
    pairs, _ = square(30, 3, apart=0.3)
    ids = names(30)
    clusters = find(ids, pairs, method=method, count=3)
    for cluster, medoid in clusters.medoids.items():
        members = [at for at, name in enumerate(ids) if clusters.labels[name] == cluster]
        sums = {ids[at]: pairs[at, members].sum() for at in members}
        assert sums[medoid] == pytest.approx(min(sums.values()), rel=1e-12)


def test_none_is_one_cluster_of_all():
    clusters = find(names(12), square(12, 4)[0], method="none")
    assert set(clusters.labels.values()) == {0} and list(clusters.medoids) == [0]


def test_late_clients_join_the_cluster_of_their_group():
    means, covariances, group = fleet(60, 4, 0)
    pairs, ids = divergences(means, covariances), names(60)
    clusters = find(ids[:40], pairs[:40, :40], count=4)
    medoids = [ids.index(clusters.medoids[cluster]) for cluster in range(4)]
    joined = nearest(pairs[40:, medoids])
    assert group[np.array(medoids)[joined]].tolist() == group[40:].tolist()


def test_one_client_is_one_cluster():
    clusters = find(["only"], np.zeros((1, 1)), count=2)
    assert clusters.labels == {"only": 0} and clusters.medoids == {0: "only"}
    assert "one client" in clusters.note


@pytest.mark.parametrize("method", ["spectral", "agglomerative"])
def test_equal_clients_are_one_cluster_and_the_note_says_so(method):
    clusters = find(names(5), np.zeros((5, 5)), method=method, count=3)
    assert set(clusters.labels.values()) == {0} and "all 5 clients are equal" in clusters.note


@pytest.mark.parametrize("method", ["spectral", "agglomerative"])
def test_fewer_clients_than_clusters_make_as_many_clusters_as_differ(method):
    pairs, _ = square(3, 3)
    clusters = find(names(3), pairs, method=method, count=7)
    assert sorted(clusters.labels.values()) == [0, 1, 2]
    assert clusters.note == "7 clusters were asked for and 3 clients differ: 3 clusters"


@pytest.mark.parametrize("method", ["spectral", "agglomerative"])
def test_exact_copies_share_a_cluster(method):
    pairs, _ = square(3, 3)
    source = np.array([0, 0, 0, 0, 0, 1, 2, 2])
    clusters = find(names(8), pairs[np.ix_(source, source)], method=method, count=5)
    assert list(clusters.labels.values()) == source.tolist()
    assert "3 clients differ" in clusters.note


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ids": []}, "no client"),
        ({"ids": ["a", "a", "b"]}, "named twice"),
        ({"method": "magic"}, "no method"),
        ({"count": 0}, "count 0"),
        ({"count": "many"}, "count 'many'"),
        ({"most": 1}, "most 1"),
    ],
)
def test_what_cannot_be_asked_for_is_named(change, text):
    asked = {"ids": ["a", "b", "c"], "divergence": np.ones((3, 3)) - np.eye(3), **change}
    with pytest.raises(SpecError, match=text):
        find(**asked)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_divergences_that_cannot_be_are_refused(value):
    pairs = np.ones((3, 3))
    pairs[0, 2] = value
    with pytest.raises(MalformedError, match="NaN"):
        find(["a", "b", "c"], pairs)
    with pytest.raises(MalformedError, match="NaN"):
        nearest(pairs)


def test_divergences_of_another_shape_are_refused():
    with pytest.raises(MalformedError, match="shape"):
        find(["a", "b", "c"], np.ones((3, 2)))
    with pytest.raises(MalformedError, match="shape"):
        nearest(np.ones((3, 0)))
