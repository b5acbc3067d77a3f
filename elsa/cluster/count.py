"""How many clusters: a number that was asked for, as far as clients differ, or the eigengap."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.spectral import EQUAL_NATS

Count = int | Literal["eigengap"]
CLEAR_GAP = 0.6  # fleets of 12 to 1,000 clients without groups showed up to 0.52
ROUNDING = 1e-6  # an eigenvalue below it is noise of single precision
_BLOCK = 500  # rows looked at together


def gap(eigenvalues: NDArray[np.float64], clients: int) -> tuple[int, float]:
    """Return the number of clusters k before the largest gap sqrt(k) (l_k - l_k+1) / l_k, and that gap.

    The gap is relative, for with many groups the first eigenvalue, always 1, stands far above all others. The root is
    ours: gaps that arise by chance shrink with k. Without any groups there is one gap after as many eigenvalues as
    Gaussians of d dimensions vary in, d (d + 3) / 2: ask for fewer. `eigenvalues` descend; k is from 2 to one less
    than there are, and leaves two clients a cluster. (1, 0.0) where there is nothing to choose from.
    """
    last = min(len(eigenvalues) - 1, clients // 2)
    here, below = eigenvalues[1:last], np.maximum(eigenvalues[2 : last + 1], 0)
    if not here.size:
        return 1, 0.0
    share = np.where(here > ROUNDING, 1 - below / np.maximum(here, ROUNDING), 0)
    gaps = np.sqrt(np.arange(2, last + 1)) * share
    best = int(gaps.argmax())
    return best + 2, float(gaps[best])


def different(divergence: NDArray[np.float64]) -> int:
    """Return how many clients (rows of a square matrix) are not equal to one before them."""
    equal = 0
    for start in range(0, len(divergence), _BLOCK):
        rows = divergence[start : start + _BLOCK, : start + _BLOCK] <= EQUAL_NATS
        equal += int(np.tril(rows, start - 1).any(axis=1).sum())
    return len(divergence) - equal


def affordable(count: Count, clients: int) -> tuple[Count, str]:
    """Return the count, brought down to the number of different clients, and the note of it."""
    if count == "eigengap" or count <= clients:
        return count, ""
    return clients, f"{count} clusters were asked for and {clients} clients differ: {clients} clusters"


def spare(count: Count, most: int) -> int:
    """Return how many eigenvalues to compute: one past the last that may count."""
    return (most if count == "eigengap" else count) + 1


def chosen_count(count: Count, eigenvalues: NDArray[np.float64], clients: int) -> tuple[int, str]:
    """Return the number of clusters to make, and the note of a gap that is not clear."""
    if count != "eigengap":
        return count, ""
    best, size = gap(eigenvalues, clients)
    if size >= CLEAR_GAP:
        return best, ""
    return 1, f"no clear gap between eigenvalues (largest {size:.2f}, want {CLEAR_GAP}): one cluster"


def fewer(made: int, chosen: int) -> str:
    """Return the note for clients that fell into fewer clusters than were chosen."""
    return "" if made >= chosen else f"the clients fell into {made} of {chosen} clusters: the others would be empty"


def no_structure(clients: int, count: Count) -> str:
    """Return the note for clients of which no two differ."""
    if clients == 1:
        return (
            ""
            if count in (1, "eigengap")
            else f"{count} clusters were asked for and there is one client: one cluster"
        )
    return f"all {clients} clients are equal: one cluster"
