"""Laws of the assignment of clients to edges."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.cluster.assignment import assign, check_room
from elsa.errors import CapacityError

EDGES = ("edge-1", "edge-2", "edge-3")
LINKS = st.dictionaries(st.sampled_from(EDGES), st.integers(1, 100).map(float))
FLEETS = st.dictionaries(st.sampled_from([f"client-{n}" for n in range(1, 6)]), LINKS, max_size=4)
ROOMS = st.fixed_dictionaries({edge: st.integers(0, 3) for edge in EDGES})


def best_by_trying_all(latencies, rooms):
    clients, best = sorted(latencies), None
    for edges in itertools.product(EDGES, repeat=len(clients)):
        within = all(edges.count(edge) <= rooms[edge] for edge in EDGES)
        if within and all(edge in latencies[client] for client, edge in zip(clients, edges, strict=True)):
            total = sum(latencies[client][edge] for client, edge in zip(clients, edges, strict=True))
            best = total if best is None else min(best, total)
    return best


@given(FLEETS, ROOMS)
def test_total_latency_is_the_least_and_found_whenever_there_is_one(latencies, rooms):
    best = best_by_trying_all(latencies, rooms)
    if best is None:
        for judge in (assign, check_room):
            with pytest.raises(CapacityError, match=r"^client-\d: "):
                judge(latencies, rooms)
        return
    check_room(latencies, rooms)
    edges = assign(latencies, rooms)
    assert edges.keys() == latencies.keys()
    assert all(list(edges.values()).count(edge) <= rooms[edge] for edge in EDGES)
    assert sum(latencies[client][edge] for client, edge in edges.items()) == best


@given(FLEETS, st.randoms())
def test_order_of_clients_is_irrelevant(latencies, random):
    names = [client for client in latencies if latencies[client]]
    shuffled = random.sample(names, len(names))
    rooms = dict.fromkeys(EDGES, 5)
    first = assign({name: latencies[name] for name in names}, rooms)
    assert first == assign({name: latencies[name] for name in shuffled}, dict(reversed(rooms.items())))


def test_who_would_lose_most_keeps_its_edge():
    latencies = {"client-1": {"edge-1": 1, "edge-2": 2}, "client-2": {"edge-1": 1, "edge-2": 90}}
    assert assign(latencies, {"edge-1": 1, "edge-2": 1}) == {"client-1": "edge-2", "client-2": "edge-1"}


def test_full_edges_are_named_with_their_bound():
    latencies = {f"client-{n}": {"edge-1": 1.0, "edge-2": 2.0} for n in (1, 2, 3)}
    with pytest.raises(CapacityError, match=r"client-\d: no room .*\(edge-1 1/1, edge-2 1/1\); add an edge"):
        assign(latencies, {"edge-1": 1, "edge-2": 1})


def test_client_without_links_is_named():
    with pytest.raises(CapacityError, match="client-2: reaches no edge"):
        assign({"client-1": {"edge-1": 1.0}, "client-2": {"edge-9": 1.0}}, {"edge-1": 4})


def test_infinite_latency_is_out_of_reach():
    assert assign({"client-1": {"edge-1": float("inf"), "edge-2": 9}}, {"edge-1": 1, "edge-2": 1}) == {
        "client-1": "edge-2"
    }


def test_no_clients_need_no_edges():
    assert assign({}, {}) == {}


def test_room_beyond_the_number_of_clients_costs_nothing():
    assert assign({"client-1": {"edge-1": 1.0}}, {"edge-1": 2**31 - 1, "edge-2": 0}) == {"client-1": "edge-1"}
