"""What an update tells of the client that sent it: whether it points where its cluster goes, and how far.

The formulas are ours; they need whole updates, or any fixed random projection of them, so they run where the updates
are, at an edge or at the cloud.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALONG = 0.75  # share of the cluster's middle cosine that is still a full agreement
SPREAD = 3 * 1.4826  # how many median deviations, as standard deviations of a normal distribution, a norm may be off
LEAST_SPREAD = 0.1  # of the logarithm of a norm: equal norms must not make a hair's breadth a fault
LARGEST_MIDDLE = 2.0  # in the fleet's median norm: a cluster most of which is amplified is no measure of itself


def update_agreement(updates: Array, clusters: NDArray[np.int64]) -> tuple[Array, Array]:
    """Direction and norm of each client's update against its cluster's: both (N,) in [0, 1], 1 for nothing amiss.

    `updates` (N, P) are differences to the model that all began from, `clusters` (N,) who is compared with whom.
    A cluster of one or two has no majority: its clients' directions are 1, and its middle norm is twice the fleet's.
    Where no cluster has more than two nothing is held against anybody.

    - Direction: 1 - e · max(0, 1 - c / (0.75 median c)), at least 0, c the cosine with the coordinate-wise median of
      the cluster's other updates and the median over the cluster; an update against the others is worse than one
      that has nothing to do with them. e in [0, 1] is the evidence: how far that median is a direction of all and
      not of the few it is made of (`reliability`), times the margin (n - 2) / n by which the others of a cluster of
      n outnumber one: that two agree makes a third neither good nor bad.
    - Norm: 1 up to m·e^s, and m / norm beyond, which is what the update must shrink by to be of middle length.
      m is the cluster's lower median norm, at least the fleet's (what is usual in the fleet is not too long, whoever
      else is in the cluster) and at most twice that; s is 3 · 1.4826 times the median of |log(norm / m)| over
      all whose cluster has a majority, which is at least 0.1. Short updates are no fault.
    """
    lengths = np.linalg.norm(updates, axis=1)
    usual = _lower_median(lengths)
    marks = np.unique(clusters, return_inverse=True)[1]
    many = np.bincount(marks)[marks] > 2  # (N,), whose cluster has a majority
    direction, middle = np.ones(len(updates)), np.full(len(updates), LARGEST_MIDDLE * usual)
    for mark in np.unique(marks[many]):
        rows = np.flatnonzero(marks == mark)
        direction[rows] = _direction(updates[rows], lengths[rows])
        middle[rows] = np.clip(_lower_median(lengths[rows]), usual, LARGEST_MIDDLE * usual)
    return direction, _norm(lengths, middle, many)


def reliability(cosine: float, count: int) -> float:
    """In [0, 1]: how much of the middle of `count` updates is common to all, given a further one's cosine with it.

    Where each of n updates is a common part and one of its own, and two have the cosine r, the mean of n has with a
    further one the cosine c = r / sqrt(r + (1 - r) / n), and a share n r / (1 + (n - 1) r) of it, c² / r, is common:
    the reliability of a mean of n (Spearman, "Correlation calculated from faulty data", and Brown, "Some experimental
    results in the correlation of mental abilities", both 1910).
    """
    if cosine <= 0:
        return 0.0
    half = cosine**2 * (1 - 1 / count) / 2
    return cosine**2 / (half + float(np.sqrt(half**2 + cosine**2 / count)))


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
    cosine = np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0)
    middle, count = float(np.median(cosine)), len(cosine)
    if middle <= 0:  # no direction is common
        return np.ones(count)
    evidence = reliability(middle, count - 1) * (count - 2) / count
    result: Array = np.clip(1 - evidence * np.maximum(0, 1 - cosine / (ALONG * middle)), 0, 1)
    return result


def _lower_median(lengths: Array) -> float:
    """The smaller of the two middle values of an even number: half a cluster amplified does not hide itself."""
    return float(np.sort(lengths)[(len(lengths) - 1) // 2]) if len(lengths) else 0.0


def _norm(lengths: Array, middle: Array, many: NDArray[np.bool_]) -> Array:
    score = np.ones(len(lengths))
    if not many.any():
        return score
    score[(lengths > 0) & (middle == 0)] = 0  # all but a few still: those few are the fault
    moved = np.flatnonzero((lengths > 0) & (middle > 0))
    off = np.log(lengths[moved] / middle[moved])
    own = np.abs(off[many[moved]])
    spread = SPREAD * max(float(np.median(own)) if own.size else 0.0, LEAST_SPREAD)
    score[moved] = np.where(off > spread, np.exp(-off), 1)
    return score
