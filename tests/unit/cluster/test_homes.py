"""Which clusters are at home at which edges."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elsa.cluster.homes import homes


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
        lambda shape: st.tuples(
            arrays(int, shape[0], elements=st.integers(0, 9)),
            arrays(float, shape, elements=st.one_of(st.floats(0, 10), st.just(np.inf))),
            arrays(int, shape[1], elements=st.integers(0, 9)),
        )
    )
)
def test_every_cluster_and_every_edge_has_one(problem):
    at_home = homes(*problem)
    assert at_home.any(axis=0).all() and at_home.any(axis=1).all()
    assert at_home.sum() == max(at_home.shape)


def test_as_many_edges_as_clusters_are_matched_at_least_cost():
    costs = np.array([[0.1, 0.2, 0.9], [0.1, 0.8, 0.9], [0.5, 0.5, 0.4]])
    at_home = homes(np.array([3, 3, 3]), costs, np.array([3, 3, 3]))
    assert np.argwhere(at_home).tolist() == [[0, 1], [1, 0], [2, 2]]


def test_a_cluster_goes_where_it_has_room():
    at_home = homes(np.array([5, 2]), np.full((2, 2), 0.5), np.array([2, 5]))
    assert np.argwhere(at_home).tolist() == [[0, 1], [1, 0]]


def test_an_edge_left_over_goes_to_the_cluster_that_needs_room():
    at_home = homes(np.array([6, 2]), np.full((2, 3), 0.5), np.array([3, 3, 3]))
    assert at_home.sum(axis=1).tolist() == [2, 1]


def test_a_cluster_left_over_goes_to_the_edge_with_room():
    at_home = homes(np.array([3, 3, 3]), np.full((3, 2), 0.5), np.array([3, 6]))
    assert at_home.sum(axis=0).tolist() == [1, 2]
