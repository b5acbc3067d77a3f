"""Laws of the greedy placement with regret, before and after its exchanges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.cluster.exact import cheapest
from elsa.cluster.greedy import by_regret


def full_house(seed):
    """Costs and rooms such that there are as many seats as clients, and each has a seat that it can reach."""
    random = np.random.default_rng(seed)
    clients, edges = int(random.integers(2, 120)), int(random.integers(1, 12))
    home = random.integers(0, edges, clients)
    costs = np.where(random.random((clients, edges)) < 0.3, random.gamma(2, 0.5, (clients, edges)), np.inf)
    costs[np.arange(clients), home] = 3 * random.random(clients)
    return costs, np.bincount(home, minlength=edges)


def cost_of(costs, placed):
    return costs[np.arange(len(costs)), placed].sum()


@given(st.integers(0, 10**6))
def test_everyone_is_placed_even_if_every_seat_is_needed(seed):
    costs, room = full_house(seed)
    placed, _ = by_regret(costs, room, np.full(len(costs), -1), most=0)
    assert np.isfinite(cost_of(costs, placed))
    assert (np.bincount(placed, minlength=len(room)) == room).all()


@given(st.integers(0, 10**6))
def test_with_its_exchanges_it_is_proved_to_be_the_cheapest(seed):
    costs, room = full_house(seed)
    placed, proved = by_regret(costs, room, np.full(len(costs), -1), most=1000)
    assert proved
    assert cost_of(costs, placed) == pytest.approx(cost_of(costs, cheapest(costs, room)), abs=1e-6)


def test_without_exchanges_it_is_within_a_fifth_of_the_cheapest_and_says_that_it_is_not_proved():
    random = np.random.default_rng(7)
    ratios, proofs = [], []
    for _ in range(30):
        costs = random.gamma(2, 0.5, (200, 10)) + random.random((200, 10))
        room = np.full(10, 20)
        placed, proved = by_regret(costs, room, np.full(200, -1), most=0)
        ratios.append(cost_of(costs, placed) / cost_of(costs, cheapest(costs, room)))
        proofs.append(proved)
    assert 1 < max(ratios) < 1.2, f"greedy over exact: mean {np.mean(ratios):.3f}, most {np.max(ratios):.3f}"
    assert not any(proofs)


def test_who_stands_somewhere_stays_there_if_no_exchange_is_cheaper():
    costs, room = np.zeros((6, 3)), np.full(3, 4)
    start = np.array([2, 2, 0, 1, -1, 2])
    placed, proved = by_regret(costs, room, start, most=10)
    assert proved
    assert (placed == start)[start >= 0].all()


def test_who_stands_at_an_edge_that_lost_its_room_gives_way():
    placed, _ = by_regret(np.array([[0.0, 5.0], [0.0, 1.0]]), np.array([1, 1]), np.array([0, 0]), most=10)
    assert placed.tolist() == [0, 1]
