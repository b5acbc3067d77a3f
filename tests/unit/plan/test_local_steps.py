"""Laws of proportional steps: clients take a round the same time, each at least a hundredth of the most."""

from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_fleets import client_of, edge_of, problem_of

from elsa.aggregate.fednova import least_steps
from elsa.plan.planner import plan
from elsa.plan.steps import local_steps, step_seconds_of
from elsa.train.phases import PhaseSeconds

SPEEDS = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=8)
MOST = st.integers(1, 1000)


def planned(seconds):
    """A plan in which client n's step takes `seconds[n]`."""
    made = plan(problem_of([client_of(f"client-{n}") for n in range(len(seconds))]))
    clients = {
        name: replace(client, seconds=PhaseSeconds(bottom=own / 2, wait=own / 2))
        for (name, client), own in zip(made.clients.items(), seconds, strict=True)
    }
    return replace(made, clients=clients)


@settings(deadline=None)
@given(SPEEDS, MOST)
def test_a_clients_steps_take_as_long_as_the_fastest_ones_to_half_a_step(seconds, most):
    steps = list(local_steps(planned(seconds), most).values())
    whole, least = most * min(seconds), ceil(most / 100)
    for own, taken in zip(seconds, steps, strict=True):
        assert taken == least or abs(taken * own - whole) <= own / 2 * (1 + 1e-9)
        assert taken > least or own >= whole / (least + 0.5) * (1 - 1e-9)


@settings(deadline=None)
@given(SPEEDS, MOST)
def test_the_fastest_takes_most_and_a_slower_one_never_more(seconds, most):
    steps = list(local_steps(planned(seconds), most).values())
    assert steps[seconds.index(min(seconds))] == max(steps) == most
    in_order = sorted(zip(seconds, steps, strict=True))
    assert all(one >= other for (_, one), (_, other) in pairwise(in_order))
    assert min(steps) >= least_steps(most)


@settings(deadline=None)
@given(SPEEDS, MOST, st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_fleet_that_is_slower_altogether_takes_the_same_steps(seconds, most, times):
    assert local_steps(planned([times * own for own in seconds]), most) == local_steps(planned(seconds), most)


def test_the_fastest_is_that_of_all_edges():
    clients = [client_of("fast", edges=("a",), block_s=0.25), client_of("slow", edges=("b",), block_s=8.0)]
    edges = [edge_of("a"), edge_of("b", block_s=4.0)]
    made = plan(problem_of(clients, edges, homes={"fast": "a", "slow": "b"}))
    fast, slow = (step_seconds_of(client) for client in made.clients.values())
    assert local_steps(made, 100) == {"fast": 100, "slow": round(100 * fast / slow)}


def test_waiting_for_the_edge_counts():
    waiting = planned([1.0, 1.0])
    quick = replace(waiting.clients["client-0"], seconds=PhaseSeconds(bottom=0.5))
    assert local_steps(replace(waiting, clients={**waiting.clients, "client-0": quick}), 10) == {
        "client-0": 10,
        "client-1": 5,
    }


def test_no_steps_at_most_are_refused():
    with pytest.raises(ValueError, match="most is 0"):
        local_steps(planned([1.0]), 0)
