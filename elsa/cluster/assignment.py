"""Which edge each client trains at: the lowest sum of latencies that keeps within every edge's room.

The cloud asks `check_room` while a run gathers its members and `assign` once it has them. Every edge stands as many
times as it has room, and the rectangular assignment problem over those slots is solved exactly (Crouse 2016, as in
SciPy); whether there is a solution at all is a maximum flow over clients and edges.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow

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
    check_room(latencies_ms, capacities)
    clients, edges = sorted(latencies_ms), sorted(capacities)
    if not clients:
        return {}
    room = [min(capacities[edge], len(clients)) for edge in edges]
    slots = np.repeat(np.arange(len(edges)), room)
    rows, columns = linear_sum_assignment(_costs(latencies_ms, clients, edges)[:, slots])
    return {clients[row]: edges[slots[column]] for row, column in zip(rows, columns, strict=True)}


def check_room(latencies_ms: Latencies, capacities: Mapping[str, int]) -> None:
    """Raise CapacityError as `assign` does if not every client finds an edge."""
    clients, edges = sorted(latencies_ms), sorted(edge for edge, room in capacities.items() if room > 0)
    if not clients:
        return
    if not edges:
        raise CapacityError(f"{clients[0]}: no edge has room; add an edge or raise a capacity")
    reach = np.isfinite(_costs(latencies_ms, clients, edges))
    room = np.array([min(capacities[edge], len(clients)) for edge in edges])
    placed, taken = _most_placed(reach, room)
    if placed.all():
        return
    row = int(np.flatnonzero(~placed)[0])
    reached = np.flatnonzero(reach[row])
    if not reached.size:
        raise CapacityError(f"{clients[row]}: reaches no edge with room; add an edge or mend its links")
    fill = ", ".join(f"{edges[column]} {taken[column]}/{capacities[edges[column]]}" for column in reached)
    raise CapacityError(f"{clients[row]}: no room at any edge it can reach ({fill}); add an edge or raise a capacity")


def _costs(latencies_ms: Latencies, clients: list[str], edges: list[str]) -> NDArray[np.float64]:
    column_of = {edge: column for column, edge in enumerate(edges)}
    costs = np.full((len(clients), len(edges)), math.inf)  # inf: out of reach
    for row, client in enumerate(clients):
        for edge, latency in latencies_ms[client].items():
            if edge in column_of and math.isfinite(latency):
                costs[row, column_of[edge]] = latency
    return costs


def _most_placed(reach: NDArray[np.bool_], room: NDArray[np.int_]) -> tuple[NDArray[np.bool_], NDArray[np.int_]]:
    """For the most clients that can be placed at once: who is placed, and how many each edge takes.

    A maximum flow from a source (node 0) over clients and edges to a sink (the last node).
    """
    count, width = reach.shape
    sink = count + width + 1
    clients, edges = np.nonzero(reach)
    tails = np.concatenate([np.zeros(count, int), 1 + clients, 1 + count + np.arange(width)])
    heads = np.concatenate([1 + np.arange(count), 1 + count + edges, np.full(width, sink)])
    limits = np.concatenate([np.ones(count + len(clients), int), room]).astype(np.int32)
    graph = csr_array(coo_array((limits, (tails, heads)), shape=(sink + 1, sink + 1)))
    flow = maximum_flow(graph, 0, sink).flow
    leaving, arriving = flow[[0], :].toarray().ravel(), flow[:, [sink]].toarray().ravel()
    return leaving[1 : 1 + count] > 0, arriving[1 + count : sink]
