"""What an update tells of the client that sent it: whether it points where its cluster goes, and how far.

The formulas are ours; they need whole updates, or any fixed random projection of them, so they run where the updates
are, at an edge or at the cloud.
"""

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.trust_probes import NEUTRAL

Array = NDArray[np.float64]

ALONG = 0.75  # share of the cluster's middle cosine that is still a full agreement
SPREAD = 3 * 1.4826  # how many median deviations, as standard deviations of a normal distribution, a norm may be off
LEAST_SPREAD = 0.1  # of the logarithm of a norm: equal norms must not make a hair's breadth a fault
LARGEST_MIDDLE = 2.0  # in the fleet's median norm: a cluster most of which is amplified is no measure of itself


def update_agreement(updates: Array, clusters: NDArray[np.int64]) -> tuple[Array, Array]:
    """Direction and norm of each client's update against its cluster's: both (N,) in [0, 1], 1 for nothing amiss.

    `updates` (N, P) are differences to the model that all began from, `clusters` (N,) who is compared with whom.

    - Direction: min(1, max(0, c) / (0.75 median c)), c the cosine with the coordinate-wise median of the cluster's
      other updates and the median over the cluster. A cluster of one or two has no majority: its clients get the
      median direction of all others, or NEUTRAL where there are none.
    - Norm: 1 up to m·e^s, and m / norm beyond, which is what the update must shrink by to be of middle length.
      m is the cluster's lower median norm (the fleet's for a cluster of one or two), at most twice the fleet's; s is
      3 · 1.4826 times the fleet's median of |log(norm / m)|, which is at least 0.1. Short updates are no fault.
      NEUTRAL in a fleet of one or two.
    """
    lengths = np.linalg.norm(updates, axis=1)
    direction, middle = np.full(len(updates), np.nan), np.full(len(updates), _lower_median(lengths))
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        if len(rows) > 2:
            direction[rows] = _direction(updates[rows], lengths[rows])
            middle[rows] = np.minimum(_lower_median(lengths[rows]), LARGEST_MIDDLE * middle[rows])
    judged = direction[~np.isnan(direction)]
    return np.nan_to_num(direction, nan=float(np.median(judged)) if judged.size else NEUTRAL), _norm(lengths, middle)


def without_self(values: Array) -> Array:
    """(N, P): for each row the coordinate-wise median of all other rows, by one sort; N at least 2."""
    count, half = len(values), (len(values) - 1) // 2
    ordered = np.sort(values, axis=0)
    if count % 2 == 0:  # an odd number is left: its middle is one up or down
        return np.asarray(np.where(values <= ordered[half], ordered[half + 1], ordered[half]))
    below, middle, above = ordered[half - 1], ordered[half], ordered[half + 1]
    low = np.where(values >= middle, below, middle)
    high = np.where(values <= middle, above, middle)
    result: Array = (low + high) / 2
    return result


def _direction(updates: Array, lengths: Array) -> Array:
    others = without_self(updates)
    scale = lengths * np.linalg.norm(others, axis=1)
    inner = np.einsum("np,np->n", updates, others)
    cosine = np.maximum(np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0), 0)
    full = ALONG * float(np.median(cosine))
    return np.minimum(1, cosine / full) if full > 0 else np.full(len(cosine), NEUTRAL)


def _lower_median(lengths: Array) -> float:
    """The smaller of the two middle values of an even number: half a cluster amplified does not hide itself."""
    return float(np.sort(lengths)[(len(lengths) - 1) // 2]) if len(lengths) else 0.0


def _norm(lengths: Array, middle: Array) -> Array:
    if len(lengths) < 3:
        return np.full(len(lengths), NEUTRAL)
    moved = (lengths > 0) & (middle > 0)
    off = np.log(lengths[moved] / middle[moved])
    score = np.where(lengths > 0, np.where(middle > 0, 1.0, 0.0), 1.0)  # all but a few still: those few are the fault
    if off.size:
        spread = SPREAD * max(float(np.median(np.abs(off))), LEAST_SPREAD)
        score[moved] = np.where(off > spread, np.exp(-off), 1)
    return score
