"""Laws of the question whether every client finds an edge."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.cluster.room import check_reach, check_room, left_over
from elsa.errors import CapacityError

EDGES = ("edge-1", "edge-2", "edge-3")
LINKS = st.dictionaries(st.sampled_from(EDGES), st.integers(1, 100).map(float))
FLEETS = st.dictionaries(st.sampled_from([f"client-{n}" for n in range(1, 6)]), LINKS, max_size=4)
ROOMS = st.fixed_dictionaries({edge: st.integers(0, 3) for edge in EDGES})


def somehow_placed(latencies, rooms):
    choices = itertools.product(*(sorted(latencies[client]) for client in sorted(latencies)))
    return any(all(edges.count(edge) <= rooms[edge] for edge in EDGES) for edges in choices)


@given(FLEETS, ROOMS)
def test_there_is_room_exactly_if_trying_all_finds_some(latencies, rooms):
    if somehow_placed(latencies, rooms):
        check_room(latencies, rooms)
    else:
        with pytest.raises(CapacityError, match=r"^client-\d: "):
            check_room(latencies, rooms)


@given(FLEETS, ROOMS)
def test_those_who_are_left_over_are_as_few_as_can_be(latencies, rooms):
    left = left_over(latencies, rooms)
    assert somehow_placed({client: links for client, links in latencies.items() if client not in left}, rooms)
    for fewer in itertools.combinations(latencies, max(len(left) - 1, 0)):
        rest = {client: links for client, links in latencies.items() if client not in fewer}
        assert not left or not somehow_placed(rest, rooms)
    assert all(why and "\n" not in why for why in left.values())


def test_full_edges_are_named_with_their_bound():
    latencies = {f"client-{n}": {"edge-1": 1.0, "edge-2": 2.0} for n in (1, 2, 3)}
    with pytest.raises(CapacityError, match=r"client-\d: no room .*\(edge-1 1/1, edge-2 1/1\); add an edge"):
        check_room(latencies, {"edge-1": 1, "edge-2": 1})


def test_client_without_links_is_named():
    with pytest.raises(CapacityError, match="client-2: reaches no edge"):
        check_room({"client-1": {"edge-1": 1.0}, "client-2": {"edge-9": 1.0}}, {"edge-1": 4})


def test_edges_without_room_for_anyone_are_told():
    with pytest.raises(CapacityError, match="client-1: no edge has room"):
        check_room({"client-2": {"edge-1": 1.0}, "client-1": {"edge-1": 1.0}}, {"edge-1": 0})


def test_client_beyond_its_latency_bound_is_named_with_bound_and_nearest_edge():
    latencies = np.array([[5.0, 9.0], [80.0, 95.0]])
    told = r"client-2: no edge with room within its latency bound of 50 ms \(the nearest, edge-1, is at 80 ms\)"
    with pytest.raises(CapacityError, match=told):
        check_reach(["client-1", "client-2"], EDGES[:2], np.array([4, 4]), latencies, np.array([50.0, 50.0]))


def test_full_edges_within_the_latency_bound_are_named_with_it():
    latencies = np.array([[5.0, 90.0], [5.0, 90.0]])
    with pytest.raises(CapacityError, match=r"client-\d: no room at any .* within 50 ms \(edge-1 1/1\)"):
        check_reach(["client-1", "client-2"], EDGES[:2], np.array([1, 4]), latencies, np.array([50.0, 50.0]))
