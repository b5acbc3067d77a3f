"""Laws of edges for clients that have none: the nearest with room, for those that can train there at all."""

from hypothesis import given, settings
from hypothesis import strategies as st
from planned_fleets import AMPLE, client_of, edge_of, problem_of

from elsa.plan.homes import with_homes
from elsa.plan.memory import edge_needs
from elsa.plan.planner import plan
from elsa.plan.profile import LinkProfile


def linked(name, latencies, **figures):
    links = {
        edge: LinkProfile(latency_ms=own, up_bytes_per_s=1e6, down_bytes_per_s=1e6) for edge, own in latencies.items()
    }
    return client_of(name, links=links, **figures)


def homed(clients, edges, homes=None):
    return with_homes(problem_of(clients, edges, homes=homes or {}))


def reasons(problem):
    return {fault.name: fault.reason for fault in problem.faults}


def test_a_client_goes_to_the_nearest_edge_and_one_that_has_an_edge_stays():
    clients = [linked("a", {"e1": 1, "e2": 9}), linked("b", {"e1": 9, "e2": 1}), linked("c", {"e1": 9, "e2": 1})]
    made = homed(clients, [edge_of("e1"), edge_of("e2")], {"c": "e1"})
    assert made.homes == {"a": "e1", "b": "e2", "c": "e1"} and not made.faults


def test_seats_that_are_taken_are_no_room():
    clients = [linked(name, {"e1": 1}) for name in "abc"]
    made = homed(clients, [edge_of("e1", capacity=2)], {"c": "e1"})
    assert made.homes["c"] == "e1" and len(made.homes) == 2
    (left,) = reasons(made)
    assert left in "ab" and "no room at any edge it can reach (e1 1/1)" in reasons(made)[left]


def test_a_client_that_can_train_nowhere_takes_no_seat():
    weak, capped = linked("a", {"e1": 1}, memory_bytes=10), linked("b", {"e1": 1}, max_bottom=1)
    problem = problem_of([weak, capped, linked("c", {"e1": 50})], [edge_of("e1", capacity=1)], homes={}, min_bottom=2)
    made = with_homes(problem)
    assert made.homes == {"c": "e1"}
    assert "MiB" in reasons(made)["a"] and "max_bottom 1" in reasons(made)["b"]
    assert list(plan(made).clients) == ["c"]


def test_a_client_without_links_is_told_so():
    made = homed([linked("a", {}), linked("b", {"elsewhere": 1}), linked("c", {"e1": 1})], [edge_of("e1")])
    assert made.homes == {"c": "e1"} and set(reasons(made)) == {"a", "b"}
    assert all("reaches no edge with room" in why for why in reasons(made).values())


def test_an_edge_without_memory_for_one_more_session_is_no_room():
    problem = problem_of([], [], homes={})
    needs = edge_needs(problem.model, problem.workload, problem.most_trunk)
    small = edge_of("e1", memory_bytes=needs.of(2, 2).total)
    clients = [linked(name, {"e1": 1, "e2": 30}) for name in "abcd"]
    made = homed(clients, [small, edge_of("e2"), edge_of("e3", memory_bytes=1)])
    assert sorted(made.homes.values()) == ["e1", "e1", "e2", "e2"]
    assert len(plan(made).clients) == 4


LATENCIES = st.dictionaries(st.sampled_from(["e1", "e2", "e3"]), st.floats(0, 100))


@settings(deadline=None, max_examples=60)
@given(st.lists(LATENCIES, max_size=6), st.lists(st.integers(1, 3), min_size=3, max_size=3), st.data())
def test_everybody_has_a_reachable_edge_with_room_or_a_reason(latencies, capacities, data):
    edges = [edge_of(f"e{n + 1}", capacity=most) for n, most in enumerate(capacities)]
    clients = [
        linked(f"c{n}", own, memory_bytes=data.draw(st.sampled_from([1, AMPLE, AMPLE])))
        for n, own in enumerate(latencies)
    ]
    made = homed(clients, edges)
    assert sorted([*made.homes, *reasons(made)]) == [client.name for client in clients]
    for name, home in made.homes.items():
        assert home in latencies[int(name[1:])]
    assert all(list(made.homes.values()).count(edge.name) <= edge.capacity for edge in edges)
    assert not made.homes or {one.name for one in plan(made).refused} == set(reasons(made))
