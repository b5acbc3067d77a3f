"""Which edge each client trains at: the lowest sum of latencies that keeps within every edge's room.

The cloud calls it once when a run has its members. Every edge stands as many times as it has room, and the
rectangular assignment problem over those slots is solved exactly (Crouse 2016, as in SciPy).
"""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from elsa.errors import CapacityError

Latencies = Mapping[str, Mapping[str, float]]


def assign(latencies_ms: Latencies, capacities: Mapping[str, int]) -> dict[str, str]:
    """The edge of each client, such that the sum of latencies is the least possible.

    `latencies_ms` holds for each client the edges that it can reach; edges without a capacity, and latencies that
    are not finite, count as out of reach. Order of the mappings does not matter. An assignment is found whenever
    there is one.

    Raises:
        CapacityError: if there is none, naming a client that must be left over and the edges that it can reach.
    """
    clients, slots = sorted(latencies_ms), _slots(capacities, len(latencies_ms))
    if not clients:
        return {}
    costs = np.array([[_cost(latencies_ms[client], edge) for edge in slots] for client in clients])
    costs = costs.reshape(len(clients), len(slots))  # (clients, slots); inf: out of reach
    _check_feasible(clients, slots, costs, capacities)
    rows, columns = linear_sum_assignment(costs)
    return {clients[row]: slots[column] for row, column in zip(rows, columns, strict=True)}


def _slots(capacities: Mapping[str, int], clients: int) -> list[str]:
    return [edge for edge in sorted(capacities) for _ in range(min(capacities[edge], clients))]


def _cost(links: Mapping[str, float], edge: str) -> float:
    latency = links.get(edge, math.inf)
    return latency if math.isfinite(latency) else math.inf


def _check_feasible(
    clients: list[str], slots: list[str], costs: NDArray[np.float64], capacities: Mapping[str, int]
) -> None:
    if not slots:
        raise CapacityError(f"{clients[0]}: no edge has room; add an edge or raise a capacity")
    matching = maximum_bipartite_matching(csr_array(np.isfinite(costs)), perm_type="column")
    left_over = np.flatnonzero(matching < 0)
    if not left_over.size:
        return
    row = int(left_over[0])
    taken = Counter(slots[column] for column in matching if column >= 0)
    reached = sorted({slots[column] for column in np.flatnonzero(np.isfinite(costs[row]))})
    if not reached:
        raise CapacityError(f"{clients[row]}: reaches no edge with room; add an edge or mend its links")
    fill = ", ".join(f"{edge} {taken[edge]}/{capacities[edge]}" for edge in reached)
    raise CapacityError(f"{clients[row]}: no room at any edge it can reach ({fill}); add an edge or raise a capacity")
