"""Laws of what clients wait for each other at one edge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.plan import queueing
from elsa.plan.cost import StepSeconds
from elsa.plan.queueing import MOST_STEPS, waiting_seconds

LAW = settings(deadline=None, max_examples=100)
PHASE = st.floats(1e-3, 10)
STEP = st.fixed_dictionaries({"bottom": PHASE, "network": PHASE, "trunk": PHASE, "top": PHASE})


def steps_of(*clients):
    phases = ("bottom", "network", "trunk", "top")
    return StepSeconds(**{name: np.array([[client[name]] for client in clients], float) for name in phases})


def step(bottom=1.0, network=0.5, trunk=0.25, top=1.0):
    return {"bottom": bottom, "network": network, "trunk": trunk, "top": top}


@LAW
@given(STEP)
def test_a_client_by_itself_waits_for_nobody(client):
    assert waiting_seconds(steps_of(client)).tolist() == [0]


@LAW
@given(st.lists(STEP, min_size=2, max_size=6), st.integers(1, 20))
def test_the_slowest_client_takes_no_less_than_the_longest_step_and_the_edges_load(clients, local_steps):
    steps = steps_of(*clients)
    expected = (steps.total[:, 0] + waiting_seconds(steps, local_steps=local_steps)).max()
    assert expected >= max(steps.total.max(), steps.trunk.sum()) * (1 - 1e-12)


@LAW
@given(st.lists(STEP, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_clients_is_irrelevant_where_their_steps_are_equal(clients, random):
    """But between clients that arrive at the very same moment, of whom one must be first. Steps that differ are drawn
    by a client's place, which in a plan is that of its name."""
    uneven = np.random.default_rng(len(clients)).uniform(1, 1.001, size=(len(clients), 4))
    clients = [
        {name: seconds * times for (name, seconds), times in zip(client.items(), own, strict=True)}
        for client, own in zip(clients, uneven.tolist(), strict=True)
    ]
    order = list(range(len(clients)))
    random.shuffle(order)
    waits = waiting_seconds(steps_of(*clients), spread=0)
    assert waiting_seconds(steps_of(*(clients[n] for n in order)), spread=0).tolist() == waits[order].tolist()


@LAW
@given(st.lists(STEP, min_size=1, max_size=6))
def test_played_twice_it_is_the_same(clients):
    assert waiting_seconds(steps_of(*clients)).tolist() == waiting_seconds(steps_of(*clients)).tolist()


@LAW
@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from([0.25, 2.0, 64.0]))
def test_waits_are_in_the_unit_of_the_steps(clients, unit):
    scaled = [{name: unit * seconds for name, seconds in client.items()} for client in clients]
    assert (unit * waiting_seconds(steps_of(*clients))).tolist() == waiting_seconds(steps_of(*scaled)).tolist()


@LAW
@given(STEP, STEP)
def test_clients_that_never_meet_do_not_wait(one, late):
    """All steps of the one are over before the other first comes."""
    assert waiting_seconds(steps_of(one, {**late, "bottom": 1e4})).tolist() == [0, 0]


def ticked(clients):
    """Mean waits by a clock that ticks in whole seconds, for phases that are multiples of 4."""
    waits, queue, now, busy_until = [0] * len(clients), [], 0, 0
    due = {row: [one["bottom"] // 2 + one["network"] // 4, 0] for row, one in enumerate(clients)}  # when, visits
    while due or queue:
        queue += [row for row in sorted(due) if due[row][0] == now]
        if queue and busy_until <= now:
            row = queue.pop(0)
            when, visits = due.pop(row)
            waits[row] += now - when
            busy_until = now + clients[row]["trunk"] // 2
            away = clients[row]["network"] // 2 + clients[row]["bottom" if visits % 2 else "top"]
            if visits + 1 < 2 * MOST_STEPS:
                due[row] = [busy_until + away, visits + 1]
        now += 1
    return [wait / MOST_STEPS for wait in waits]


FOURS = st.integers(1, 5).map(lambda n: 4 * n)
WHOLE = st.fixed_dictionaries(dict.fromkeys(("bottom", "network", "trunk", "top"), FOURS))


@LAW
@given(st.lists(WHOLE, min_size=1, max_size=5))
def test_waits_are_those_of_a_clock_that_ticks(clients):
    assert waiting_seconds(steps_of(*clients), spread=0).tolist() == ticked(clients)


def test_two_equal_clients_meet_once_and_then_keep_out_of_each_others_way():
    """The second waits for the first one's forward, an eighth of a second, and comes that much later from then on."""
    waits = waiting_seconds(steps_of(step(), step()), spread=0)
    assert waits.tolist() == [0, 0.125 / MOST_STEPS]


def test_the_second_of_two_waits_for_what_a_forward_takes():
    waits = waiting_seconds(steps_of(step(), step()), forward_share=0.25, spread=0)
    assert waits.tolist() == [0, 0.0625 / MOST_STEPS + 0.125 / MOST_STEPS]


def test_a_saturated_edge_serves_clients_in_turn():
    """Eight clients of whom each keeps the edge busy as long as it is away itself."""
    steps = steps_of(*[step(bottom=0.5, network=0.0, trunk=1.0, top=0.5)] * 8)
    together = steps.total[:, 0] + waiting_seconds(steps)
    assert together.max() == pytest.approx(8, rel=1 / MOST_STEPS)
    assert together.min() == pytest.approx(8, rel=2 / MOST_STEPS)


def test_a_light_client_waits_for_heavy_ones_and_they_hardly_for_it():
    waits = waiting_seconds(steps_of(step(trunk=0.01), step(trunk=4.0), step(trunk=3.9)))
    assert waits[0] > 0.5
    assert waits[0] < 2 * 2 * (4.0 + 3.9)


def test_a_short_round_is_played_as_long_as_it_is():
    """That all begin at once is felt in each step of a round of one, and in one of many of a long round."""
    clients = steps_of(step(), step())
    waits = [waiting_seconds(clients, local_steps=steps, spread=0)[1] for steps in (1, 4, MOST_STEPS, 1000)]
    assert waits == [0.125, 0.125 / 4, 0.125 / MOST_STEPS, 0.125 / MOST_STEPS]


def test_steps_that_differ_are_waited_for_where_equal_ones_keep_out_of_each_others_way():
    clients = steps_of(step(trunk=1.0), step(trunk=1.0))
    assert waiting_seconds(clients).sum() > 2 * waiting_seconds(clients, spread=0).sum()


@LAW
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.3]))
def test_lengths_of_steps_differ_and_their_mean_is_each_clients_own(steps, clients, spread):
    lengths = queueing._lengths(steps, clients, spread)
    assert lengths.min() > 0
    assert lengths.mean(axis=0) == pytest.approx(1)
    assert steps == 1 or not spread or len(set(lengths[:, 0])) == steps
    assert (queueing._lengths(steps, clients + 1, spread)[:, :clients] == lengths).all()
