"""The neighbours of up to 100,000 clients, for trust, without the square matrix of their divergences.

Clients that are nearest to the same landmark are compared with each other and with no others. The nearest client of
one at the rim of such a cell may lie across it; a copy never does, as it is where its original is.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.trust_probes import NEIGHBOURS, Neighbours, nearest

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

LARGEST_CELL = 1_000


def nearest_by_landmarks(columns: Array, among: Callable[[Ints], Array], count: int = NEIGHBOURS) -> Neighbours:
    """The `count` nearest others of each client among those of its cell, all others where there are fewer clients.

    `columns` (N, landmarks) are divergences to landmarks; `among` gives for n clients, by row, their (n, n)
    divergences. A cell holds more than `count` and at most 1,000 clients: larger ones are cut by the divergence to
    the landmark, which is the same for equal clients. Memory grows with clients x landmarks.
    """
    total = len(columns)
    count = min(count, total - 1)
    who, how_far = np.empty((total, count), np.int64), np.empty((total, count))
    for rows in _cells(columns, count + 1):
        near = nearest(among(rows), count)
        who[rows], how_far[rows] = rows[near.who], near.divergence
    return Neighbours(who=who, divergence=how_far)


def _cells(columns: Array, fewest: int) -> list[Ints]:
    """The rows of each cell, each of at least `fewest` clients, or all."""
    home = columns.argmin(axis=1)
    sizes = np.bincount(home, minlength=columns.shape[1])
    kept = np.flatnonzero(sizes >= fewest)
    if not kept.size:
        kept = np.array([sizes.argmax()])
    astray = np.flatnonzero(sizes[home] < fewest)
    home[astray] = kept[columns[np.ix_(astray, kept)].argmin(axis=1)]
    order = np.lexsort((columns[np.arange(len(home)), home], home))
    ends = np.flatnonzero(np.diff(home[order])) + 1
    cells = np.split(order, ends)
    return [part for cell in cells for part in np.array_split(cell, -(-len(cell) // LARGEST_CELL))]
