"""Which clusters are at home at which edges: what `similar` edges mean when there is more than one of both."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]

OUT_OF_REACH = 1e3
"""The price of an edge that no client of a cluster reaches, and of one without room; others cost about 1."""


def homes(sizes: NDArray[np.int_], costs: Floats, room: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Whether each of K clusters is at home at each of E edges: (K, E), every cluster and every edge at least once.

    With as many edges as clusters it is the cheapest matching; with more clusters, those left over are matched again
    to the room that is left; with more edges, those left over go to the clusters that still need room.

    Args:
        sizes: clients of each cluster, (K,).
        costs: of a client of each cluster at each edge on average, (K, E), such as latency over its bound; not finite
            where none reaches it. On top comes the share of a cluster that finds no room.
        room: clients that each edge takes, (E,).
    """
    at_home = np.zeros(costs.shape, bool)
    needed, left = np.maximum(sizes, 0).astype(float), np.maximum(room, 0).astype(float)
    price = np.where(np.isfinite(costs), costs, OUT_OF_REACH)
    clusters, edges = np.arange(costs.shape[0]), np.arange(costs.shape[1])
    while clusters.size and edges.size:
        lacking = np.maximum(needed[clusters, None] - left[None, edges], 0) / np.maximum(sizes[clusters, None], 1)
        idle = np.where(needed[clusters, None] > 0, 0.0, 1.0)
        rows, columns = linear_sum_assignment(price[np.ix_(clusters, edges)] + lacking + idle)
        for cluster, edge in zip(clusters[rows], edges[columns], strict=True):
            taken = min(needed[cluster], left[edge])
            needed[cluster] -= taken
            left[edge] -= taken
            at_home[cluster, edge] = True
        homeless, empty = np.flatnonzero(~at_home.any(axis=1)), np.flatnonzero(~at_home.any(axis=0))
        if not homeless.size and not empty.size:
            break
        clusters = homeless if homeless.size else np.arange(costs.shape[0])
        edges = empty if empty.size else np.arange(costs.shape[1])
    return at_home
