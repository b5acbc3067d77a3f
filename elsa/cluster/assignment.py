"""Which edge each client trains at: the cheapest choice that keeps within every edge's room and client's bound.

The cloud asks once it has a run's members, and again when an edge is gone or the clusters are made anew. The cost,
min Σ alpha·distance + beta·latency/bound + gamma·(1 − trust)·harm, is in `problem.py`; small fleets go to `exact.py`,
large ones to `greedy.py`; who finds no room is told by `room.py`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.exact import cheapest
from elsa.cluster.greedy import by_regret
from elsa.cluster.problem import Problem
from elsa.cluster.room import check_reach

Method = Literal["exact", "greedy"]

EXACT_PAIRS = 20_000
"""Up to this many pairs of client and edge HiGHS is asked: 400 clients and 50 edges."""
MOST_SEARCHES = 20_000
"""How long greedy looks for exchanges."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The edge of each client, by id."""

    edges: dict[str, str]
    cost: float
    """The objective, without the costs of moves."""
    method: Method
    moved: tuple[str, ...]
    """Who had another edge before."""
    note: str
    """What an operator should know of how it was found."""


def assign(problem: Problem, method: Method | None = None) -> Assignment:
    """The cheapest edge for each client; the order of clients and edges does not matter.

    Without a `method` the size of the problem decides. "exact" is the least cost. "greedy" finds an assignment
    whenever there is one, and its note says whether it is proved to be the least. A client that had an edge leaves
    it only if that saves more than `problem.move_cost`.

    Raises:
        CapacityError: if not every client finds an edge, naming one that must be left over, and the bound.
    """
    problem = _sorted(problem)
    check_reach(problem.ids, problem.edges, problem.capacities, problem.latencies_ms, problem.bounds_ms)
    chosen: Method = method or ("exact" if len(problem.ids) * len(problem.edges) <= EXACT_PAIRS else "greedy")
    if not problem.ids:
        return Assignment(edges={}, cost=0.0, method=chosen, moved=(), note="no clients")
    costs, stood = problem.costs(), _stood(problem)
    weighed = _with_moves(costs, stood, problem.move_cost)
    if chosen == "exact":
        placed, least = cheapest(weighed, problem.room), True
    else:
        placed, least = by_regret(weighed, problem.room, stood, MOST_SEARCHES)
    edges = {client: problem.edges[column] for client, column in zip(problem.ids, placed, strict=True)}
    moved = tuple(client for client, edge in edges.items() if problem.previous.get(client, edge) != edge)
    cost = float(costs[np.arange(len(placed)), placed].sum())
    return Assignment(edges=edges, cost=cost, method=chosen, moved=moved, note=_note(problem, least))


def _sorted(problem: Problem) -> Problem:
    """The same problem with clients and edges in the order of their names."""
    rows, columns = np.argsort(problem.ids), np.argsort(problem.edges)
    bound, distance, trust = problem.latency_bound_ms, problem.distance, problem.trust
    return replace(
        problem,
        ids=tuple(problem.ids[row] for row in rows),
        edges=tuple(problem.edges[column] for column in columns),
        capacities=problem.capacities[columns],
        latencies_ms=problem.latencies_ms[np.ix_(rows, columns)],
        latency_bound_ms=bound[rows] if isinstance(bound, np.ndarray) and bound.ndim else bound,
        distance=None if distance is None else distance[np.ix_(rows, columns)],
        trust=None if trust is None else trust[rows],
    )


def _stood(problem: Problem) -> NDArray[np.int_]:
    """The column of each client's previous edge, (N,): -1 if it had none or the edge is gone."""
    column_of = {edge: column for column, edge in enumerate(problem.edges)}
    return np.array([column_of.get(problem.previous.get(client, ""), -1) for client in problem.ids], int)


def _with_moves(costs: NDArray[np.float64], stood: NDArray[np.int_], move_cost: float) -> NDArray[np.float64]:
    """The costs with the cost of leaving the edge where a client stood.

    Each client's lowest is taken off its costs, which changes no choice and keeps those of a client that is far from
    all edges within the others' range. A price of more than E + 1 spreads is as good as an infinite one: two
    assignments differ by cycles and chains of at most E + 1 clients, of which each saves at most the spread.
    """
    weighed: NDArray[np.float64] = costs - costs.min(axis=1, keepdims=True)
    spread = float(weighed.max(where=np.isfinite(weighed), initial=0.0))
    price = min(move_cost, (costs.shape[1] + 2) * spread or 1.0)
    rows = np.flatnonzero(stood >= 0)
    weighed[rows] += price
    weighed[rows, stood[rows]] -= price
    return weighed


def _note(problem: Problem, least: bool) -> str:
    notes = [
        "the least cost" if least else f"not proved to be the least cost: stopped after {MOST_SEARCHES} searches"
    ]
    if problem.trust is not None and problem.gamma and not problem.trust.any():
        notes.append("no client is trusted, so trust decides nothing")
    return "; ".join(notes)
