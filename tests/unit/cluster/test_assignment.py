"""Laws of the assignment of clients to edges."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.cluster.assignment import assign
from elsa.cluster.problem import Problem
from elsa.errors import CapacityError

EDGES = ("edge-1", "edge-2", "edge-3")
LINKS = st.dictionaries(st.sampled_from(EDGES), st.integers(1, 100).map(float))
FLEETS = st.dictionaries(st.sampled_from([f"client-{n}" for n in range(1, 6)]), LINKS, max_size=4)
ROOMS = st.fixed_dictionaries({edge: st.integers(0, 3) for edge in EDGES})
METHODS = ("exact", "greedy")
SIXTHS = st.integers(0, 12).map(lambda n: n / 6)


@st.composite
def problems(draw, clients=4):
    count = draw(st.integers(1, clients))
    matrix = st.lists(st.lists(SIXTHS, min_size=3, max_size=3), min_size=count, max_size=count).map(np.array)
    ids = tuple(f"client-{n}" for n in range(1, count + 1))
    return Problem(
        ids=ids,
        edges=EDGES,
        capacities=np.array(draw(st.tuples(*[st.integers(0, 3)] * 3))),
        latencies_ms=30 * draw(matrix),
        latency_bound_ms=np.array(
            draw(st.lists(st.sampled_from([20.0, 50.0, math.inf]), min_size=count, max_size=count))
        ),
        distance=draw(matrix),
        trust=np.array(draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=count, max_size=count))),
        gamma=draw(SIXTHS),
        previous=draw(st.dictionaries(st.sampled_from(ids), st.sampled_from([*EDGES, "edge-gone"]))),
        move_cost=draw(st.sampled_from([0.0, 0.25, math.inf])),
    )


def by_trying_all(problem):
    """The least (cost with moves) of all choices, as (moves, cost) where moves come first; None if there is none."""
    costs, best = problem.costs(), None
    for columns in itertools.product(range(len(problem.edges)), repeat=len(problem.ids)):
        cost = costs[np.arange(len(columns)), columns].sum()
        if (np.bincount(columns, minlength=len(problem.edges)) <= problem.room).all() and math.isfinite(cost):
            edges = dict(zip(problem.ids, (problem.edges[column] for column in columns), strict=True))
            best = min(best or (math.inf,), weight(problem, edges, cost))
    return best


def weight(problem, edges, cost):
    before = {client: edge for client, edge in problem.previous.items() if edge in problem.edges}
    moves = sum(edges[client] != edge for client, edge in before.items())
    return (moves, cost) if math.isinf(problem.move_cost) else (cost + moves * problem.move_cost,)


def outcome(problem, method):
    try:
        return assign(problem, method)
    except CapacityError as error:
        return str(error)


def fleet(seed, clients=150, edges=8, slack=1.1):
    """A random fleet in which everyone has an edge to go to."""
    random = np.random.default_rng(seed)
    home = random.integers(0, edges, clients)
    latencies = np.where(random.random((clients, edges)) < 0.5, random.lognormal(3, 1, (clients, edges)), np.inf)
    latencies[np.arange(clients), home] = random.lognormal(4, 1, clients)
    return Problem(
        ids=tuple(f"client-{n:03d}" for n in range(clients)),
        edges=tuple(f"edge-{n:02d}" for n in range(edges)),
        capacities=np.ceil(slack * np.bincount(home, minlength=edges)).astype(int),
        latencies_ms=latencies,
        distance=random.gamma(2, 0.5, (clients, edges)),
        trust=random.beta(8, 1, clients),
    )


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=300)
@given(problem=problems())
def test_cost_is_the_least_and_found_whenever_there_is_one(method, problem):
    best = by_trying_all(problem)
    if best is None:
        with pytest.raises(CapacityError, match=r"^client-\d: "):
            assign(problem, method)
        return
    found = assign(problem, method)
    assert found.method == method
    assert weight(problem, found.edges, found.cost) == pytest.approx(best, abs=1e-6)
    before = problem.previous
    assert found.moved == tuple(c for c in problem.ids if c in before and found.edges[c] != before[c])


@pytest.mark.parametrize("method", METHODS)
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_order_of_clients_and_edges_is_irrelevant(method, problem, random):
    rows = random.sample(range(len(problem.ids)), len(problem.ids))
    columns = random.sample(range(3), 3)
    shuffled = replace(
        problem,
        ids=tuple(problem.ids[row] for row in rows),
        edges=tuple(problem.edges[column] for column in columns),
        capacities=problem.capacities[columns],
        latencies_ms=problem.latencies_ms[np.ix_(rows, columns)],
        latency_bound_ms=problem.latency_bound_ms[rows],
        distance=problem.distance[np.ix_(rows, columns)],
        trust=problem.trust[rows],
    )
    assert outcome(shuffled, method) == outcome(problem, method)


@given(FLEETS, ROOMS)
def test_by_latency_alone_the_sum_of_latencies_is_the_least(latencies, rooms):
    problem = Problem.by_latency(latencies, rooms)
    totals = [
        sum(latencies[client][edge] for client, edge in zip(latencies, edges, strict=True))
        for edges in itertools.product(*latencies.values())
        if all(edges.count(edge) <= rooms[edge] for edge in EDGES)
    ]
    if not totals:
        with pytest.raises(CapacityError, match=r"^client-\d: "):
            assign(problem)
        return
    edges = assign(problem).edges
    assert all(list(edges.values()).count(edge) <= rooms[edge] for edge in EDGES)
    assert sum(latencies[client][edge] for client, edge in edges.items()) == min(totals)


def test_who_would_lose_most_keeps_its_edge():
    latencies = {"client-1": {"edge-1": 1, "edge-2": 2}, "client-2": {"edge-1": 1, "edge-2": 90}}
    found = assign(Problem.by_latency(latencies, {"edge-1": 1, "edge-2": 1}))
    assert found.edges == {"client-1": "edge-2", "client-2": "edge-1"}


def test_no_clients_need_no_edges():
    assert assign(Problem.by_latency({}, {})).edges == {}


def test_room_beyond_the_number_of_clients_costs_nothing():
    problem = Problem.by_latency({"client-1": {"edge-1": 1.0}}, {"edge-1": 2**31 - 1, "edge-2": 0})
    assert assign(problem).edges == {"client-1": "edge-1"}


@pytest.mark.parametrize("seed", range(10))
def test_greedy_costs_as_little_as_exact_on_middle_sized_fleets(seed):
    problem = fleet(seed, slack=1.0 if seed % 2 else 1.1)
    found, least = assign(problem, "greedy"), assign(problem, "exact")
    assert found.cost == pytest.approx(least.cost, rel=1e-7)
    assert found.note == least.note == "the least cost"


@pytest.mark.parametrize("weight", [1e-12, 1e12])
def test_only_the_ratio_of_the_weights_counts(weight):
    problem = fleet(5, slack=1.0)
    scaled = replace(problem, alpha=weight, beta=weight, gamma=weight)
    for method in METHODS:
        assert assign(scaled, method).edges == assign(problem, method).edges


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_are_absurdly_far_leave_the_others_choice_exact(seed):
    problem = fleet(seed, slack=1.0)
    problem.distance[7], problem.distance[20] = 1e15, problem.distance[20] * 1e12
    found, least = assign(problem, "greedy"), assign(problem, "exact")
    assert found.cost == pytest.approx(least.cost, rel=1e-9)


@pytest.mark.parametrize("move_cost", [0.01, 1e30, math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_facts_again_move_nobody(method, move_cost):
    first = assign(fleet(1), method)
    again = assign(replace(fleet(1), previous=first.edges, move_cost=move_cost), method)
    assert again.moved == ()
    assert again.edges == first.edges


@pytest.mark.parametrize("method", METHODS)
def test_an_edge_that_is_gone_moves_only_its_own_clients_where_there_is_room(method):
    problem = fleet(2, slack=2.0)
    problem = replace(problem, latencies_ms=np.where(np.isfinite(problem.latencies_ms), problem.latencies_ms, 300.0))
    first = assign(problem, method)
    left = replace(
        problem,
        edges=problem.edges[1:],
        capacities=problem.capacities[1:],
        latencies_ms=problem.latencies_ms[:, 1:],
        distance=problem.distance[:, 1:],
        previous=first.edges,
    )
    assert assign(left, method).moved == tuple(c for c, edge in sorted(first.edges.items()) if edge == "edge-00")


@pytest.mark.parametrize("method", METHODS)
def test_others_make_room_only_for_who_has_no_other_edge(method):
    latencies = {"client-1": {"edge-1": 1.0, "edge-2": 1.0}, "client-2": {"edge-1": 9.0}, "client-3": {"edge-2": 5.0}}
    problem = replace(Problem.by_latency(latencies, {"edge-1": 1, "edge-2": 2}), previous={"client-1": "edge-1"})
    found = assign(problem, method)
    assert found.edges == {"client-1": "edge-2", "client-2": "edge-1", "client-3": "edge-2"}
    assert found.moved == ("client-1",)


@pytest.mark.parametrize("method", METHODS)
def test_a_move_is_made_only_if_it_saves_more_than_it_costs(method):
    problem = Problem.by_latency({"client-1": {"edge-1": 10.0, "edge-2": 4.0}}, {"edge-1": 1, "edge-2": 1})
    before = {"client-1": "edge-1"}  # leaving it saves 0.6
    assert assign(replace(problem, previous=before, move_cost=0.7), method).moved == ()
    assert assign(replace(problem, previous=before, move_cost=0.5), method).moved == ("client-1",)


@pytest.mark.parametrize("method", METHODS)
def test_who_is_not_trusted_leaves_the_seat_that_the_trusted_want(method):
    problem = Problem(
        ids=("client-1", "client-2", "client-3"),
        edges=("edge-1", "edge-2"),
        capacities=np.array([2, 2]),
        latencies_ms=np.array([[1.0, 8.0], [1.0, 7.0], [1.0, 6.9]]),
        latency_bound_ms=10.0,
    )
    assert assign(problem, method).edges["client-1"] == "edge-1"
    doubted = assign(replace(problem, trust=np.array([0.0, 1.0, 1.0])), method)
    assert doubted.edges == {"client-1": "edge-2", "client-2": "edge-1", "client-3": "edge-1"}
    unweighed = assign(replace(problem, trust=np.array([0.0, 1.0, 1.0]), gamma=0.0), method)
    assert unweighed.edges == assign(problem, method).edges


def test_that_nobody_is_trusted_is_noted():
    problem = replace(fleet(3), trust=np.zeros(150))
    assert assign(problem).note == "the least cost; no client is trusted, so trust decides nothing"
    assert assign(problem).edges == assign(replace(problem, trust=None)).edges


@pytest.mark.parametrize("method", METHODS)
def test_no_client_is_sent_beyond_its_latency_bound(method):
    problem = replace(fleet(4, slack=3.0), latency_bound_ms=1000.0)
    found = assign(problem, method)
    latencies = {
        c: dict(zip(problem.edges, row, strict=True))
        for c, row in zip(problem.ids, problem.latencies_ms, strict=True)
    }
    tight = 1.01 * max(latencies[c][edge] for c, edge in found.edges.items())
    again = assign(replace(problem, latency_bound_ms=tight), method)
    assert max(latencies[c][edge] for c, edge in again.edges.items()) <= tight
    with pytest.raises(CapacityError, match=r"client-\d+: no edge with room within its latency bound of 0\.01 ms"):
        assign(replace(problem, latency_bound_ms=0.01), method)
