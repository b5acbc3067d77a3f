"""The cheapest placement of clients at edges, by linear programming."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array

LARGEST_COST = 1e6
"""Costs are scaled to this: HiGHS takes what is below 1e-7 for zero, and loses its way with very large ones."""


def cheapest(costs: NDArray[np.float64], room: NDArray[np.int_]) -> NDArray[np.int_]:
    """The edge of each client, (N,), such that the sum of `costs`, (N, E), is the least that `room`, (E,), allows.

    Infinite costs are out of reach; the caller has seen that every client finds room. HiGHS solves the linear
    relaxation: each client once, each edge at most `room` times. A transportation problem has a totally unimodular
    matrix (Hoffman and Kruskal 1956), so the vertex that the simplex method ends at is made of zeros and ones.
    """
    clients, edges = np.nonzero(np.isfinite(costs))
    seats = np.arange(len(clients))
    once = csr_array((np.ones(len(seats)), (clients, seats)), shape=(len(costs), len(seats)))
    within = csr_array((np.ones(len(seats)), (edges, seats)), shape=(len(room), len(seats)))
    offered = costs[clients, edges]
    scaled = offered * (LARGEST_COST / (np.abs(offered).max() or 1.0))
    constraints = [LinearConstraint(once, 1, 1), LinearConstraint(within, -np.inf, room)]
    solved = milp(scaled, bounds=(0, 1), constraints=constraints)
    if not solved.success:
        raise ArithmeticError(f"HiGHS found no assignment where a flow found one: {solved.message}")
    taken = seats[solved.x > 0.5]
    if not np.array_equal(clients[taken], np.arange(len(costs))):
        raise ArithmeticError("HiGHS stopped at a point that is no vertex: a client stands at several edges")
    placed: NDArray[np.int_] = edges[taken]
    return placed
