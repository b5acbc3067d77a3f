"""Laws of what an assignment is decided by."""

import math
from dataclasses import replace

import numpy as np
import pytest

from elsa.cluster.problem import Problem
from elsa.errors import SpecError

PLAIN = Problem(
    ids=("client-1", "client-2"),
    edges=("edge-1", "edge-2", "edge-3"),
    capacities=np.array([2, 2, 0]),
    latencies_ms=np.array([[10.0, 40.0, 1.0], [20.0, np.inf, 1.0]]),
)


def test_out_of_reach_is_without_link_without_room_or_beyond_the_bound():
    bounded = replace(PLAIN, latency_bound_ms=np.array([30.0, 30.0]))
    assert np.isfinite(bounded.costs()).tolist() == [[True, False, False], [True, False, False]]


def test_latency_counts_as_a_share_of_the_bound_or_else_of_the_longest():
    assert replace(PLAIN, latency_bound_ms=80.0).costs()[0, 1] == 0.5
    assert PLAIN.costs()[0].tolist() == [0.25, 1.0, math.inf]


def test_each_term_has_its_weight():
    weighed = replace(
        PLAIN, distance=np.full((2, 3), 3.0), trust=np.array([0.5, 1.0]), alpha=2.0, beta=4.0, gamma=10.0
    )
    assert weighed.harm().tolist() == [1.0, 0.0, 0.0]  # both would go to edge-1
    assert weighed.costs()[:, 0].tolist() == [2 * 3 + 4 * 0.25 + 10 * 0.5, 2 * 3 + 4 * 0.5]


def test_beyond_a_hundred_medians_all_edges_are_equally_far():
    strange = replace(PLAIN, distance=np.array([[1e30, 100.0, 0.0], [99.0, 0.0, 0.0]]), beta=0.0)
    assert strange.costs()[:, :2].tolist() == [[100.0, 100.0], [99.0, math.inf]]


def test_harm_is_the_trust_that_wants_an_edge_for_its_room():
    problem = Problem(
        ids=("a", "b", "c", "d"),
        edges=("edge-1", "edge-2"),
        capacities=np.array([4, 1]),
        latencies_ms=np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]),
        trust=np.array([1.0, 0.5, 1.0, 1.0]),
    )
    assert problem.harm() == pytest.approx([(1.5 + 0.5) / 4 / 1.5, 1.0])  # d likes both, half of it each


def test_nobody_is_in_the_way_where_nobody_is_trusted():
    assert replace(PLAIN, trust=np.zeros(2)).harm().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", -1.0),
        ("beta", math.inf),
        ("gamma", math.nan),
        ("move_cost", -0.1),
        ("move_cost", math.nan),
        ("latency_bound_ms", 0.0),
        ("latency_bound_ms", np.array([5.0, math.nan])),
    ],
)
def test_what_an_operator_cannot_mean_is_named(field, value):
    with pytest.raises(SpecError, match=f"^{field} is "):
        replace(PLAIN, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("capacities", np.array([1, 2])),
        ("latencies_ms", np.zeros((3, 2))),
        ("latency_bound_ms", np.ones(3)),
        ("distance", np.full((2, 3), np.nan)),
        ("distance", np.full((2, 3), -1.0)),
        ("trust", np.array([0.5, 1.5])),
    ],
)
def test_arrays_that_do_not_belong_together_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} "):
        replace(PLAIN, **{field: value})


def test_a_name_stands_for_one_client():
    with pytest.raises(ValueError, match="named twice"):
        replace(PLAIN, ids=("client-1", "client-1"))
