"""Whether every client finds an edge, and the error that says who does not and why.

The cloud asks `check_room` while a run gathers its members, and `left_over` once an edge is gone; `assignment.py`
asks the same of its problem. Whether there is room is a maximum flow over clients and edges, whatever an assignment
would cost.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow

from elsa.errors import CapacityError

Latencies = Mapping[str, Mapping[str, float]]


def check_room(latencies_ms: Latencies, capacities: Mapping[str, int]) -> None:
    """Raise CapacityError if not every client finds an edge.

    `latencies_ms` holds for each client the edges that it can reach; edges without a capacity, and latencies that
    are not finite, count as out of reach. Order of the mappings does not matter.
    """
    clients, edges = sorted(latencies_ms), sorted(capacities)
    latencies = latency_matrix(latencies_ms, clients, edges)
    check_reach(clients, edges, np.array([capacities[edge] for edge in edges], int), latencies)


def left_over(latencies_ms: Latencies, capacities: Mapping[str, int]) -> dict[str, str]:
    """The clients that find no edge while as many as can do, each with why; arguments as of `check_room`."""
    clients, edges = sorted(latencies_ms), sorted(capacities)
    latencies = latency_matrix(latencies_ms, clients, edges)
    return _left_over(clients, edges, np.array([capacities[edge] for edge in edges], int), latencies)


def latency_matrix(latencies_ms: Latencies, clients: Sequence[str], edges: Sequence[str]) -> NDArray[np.float64]:
    """The latencies as a matrix (clients, edges), infinite where a client does not reach an edge."""
    column_of = {edge: column for column, edge in enumerate(edges)}
    matrix = np.full((len(clients), len(edges)), math.inf)
    for row, client in enumerate(clients):
        for edge, latency in latencies_ms[client].items():
            if edge in column_of and math.isfinite(latency):
                matrix[row, column_of[edge]] = latency
    return matrix


def check_reach(
    clients: Sequence[str],
    edges: Sequence[str],
    capacities: NDArray[np.int_],
    latencies_ms: NDArray[np.float64],
    bounds_ms: NDArray[np.float64] | None = None,
) -> None:
    """Raise CapacityError, naming a client and the bound, unless each finds an edge with room within its bound.

    `capacities` is (edges,), `latencies_ms` (clients, edges) and `bounds_ms` (clients,); without bounds each finite
    latency is within reach.
    """
    left = _left_over(clients, edges, capacities, latencies_ms, bounds_ms)
    if left:
        client, why = next(iter(left.items()))
        raise CapacityError(f"{client}: {why}")


def _left_over(
    clients: Sequence[str],
    edges: Sequence[str],
    capacities: NDArray[np.int_],
    latencies_ms: NDArray[np.float64],
    bounds_ms: NDArray[np.float64] | None = None,
) -> dict[str, str]:
    """Who is left over and why, in the order of `clients`; the arguments are those of `check_reach`."""
    if not clients or not (capacities > 0).any():
        return dict.fromkeys(clients, "no edge has room; add an edge or raise a capacity")
    bounds = np.full(len(clients), math.inf) if bounds_ms is None else bounds_ms
    reach = np.isfinite(latencies_ms) & (latencies_ms <= bounds[:, None]) & (capacities > 0)
    placed, taken = _most_placed(reach, np.clip(capacities, 0, len(clients)))
    why = {}
    for row in np.flatnonzero(~placed).tolist():
        if reach[row].any():
            why[clients[row]] = _full(edges, capacities, taken, reach[row], bounds[row])
        else:
            why[clients[row]] = _out_of_reach(edges, capacities, latencies_ms[row], bounds[row])
    return why


def _full(
    edges: Sequence[str],
    capacities: NDArray[np.int_],
    taken: NDArray[np.int_],
    reach: NDArray[np.bool_],
    bound_ms: float,
) -> str:
    """Why a client that reaches these edges, (edges,), finds room at none of them."""
    fill = ", ".join(
        f"{edges[column]} {taken[column]}/{capacities[column]}" for column in np.flatnonzero(reach).tolist()
    )
    within = f" within {bound_ms:g} ms" if math.isfinite(bound_ms) else ""
    return f"no room at any edge it can reach{within} ({fill}); add an edge or raise a capacity"


def _out_of_reach(
    edges: Sequence[str], capacities: NDArray[np.int_], latencies_ms: NDArray[np.float64], bound_ms: float
) -> str:
    """Why a client with these latencies, (edges,), reaches no edge with room."""
    latencies = np.where(capacities > 0, latencies_ms, math.inf)
    nearest = int(np.argmin(latencies))
    if not math.isfinite(latencies[nearest]):
        return "reaches no edge with room; add an edge or mend its links"
    return (
        f"no edge with room within its latency bound of {bound_ms:g} ms (the nearest, {edges[nearest]}, is at "
        f"{latencies[nearest]:g} ms); raise the bound or add an edge near it"
    )


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
