"""What a fingerprint tells of the client that sent it: whether its answers fit, repeat and are its own.

Every figure is in [0, 1], 1 where nothing speaks against the client. The formulas are ours (the paper names
prediction consistency and gives none) and were chosen by measuring on simulated fleets,
except where a source is said.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import entr, ndtr, stdtrit

Array = NDArray[np.float64]

NEIGHBOURS = 7
NEUTRAL = 0.75  # where there are fewer than three clients, so that no majority can be told from a minority
REACH = 2.5  # in typical divergences: beyond, a neighbour is no witness while there are nearer ones
DOUBT = 1.0  # the weight of the fleet's middle agreement in a client's, one near neighbour's
ALIKE = 0.3  # share of the fleet's middle likeness to its common embedding that is still full likeness
LEAST_SCATTER = 0.05  # of the fleet's middle: equal figures must not make a hair's breadth a fault
COPIED = 0.3  # share of the typical distance between neighbours below which two fingerprints are too close
EQUAL = 1e-6  # share of the spread of the embeddings below which two fingerprints are equal whatever is typical
_BLOCK = 256  # clients whose neighbours' answers are held at once
_STRETCH = 64  # columns searched together for the nearest clients


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The nearest clients of each, nearest first, and how near; see `nearest`."""

    who: NDArray[np.int64]  # (N, k), rows of clients
    divergence: Array  # (N, k)

    @property
    def typical(self) -> float:
        """The median over the clients of the divergence to the nearest."""
        return float(np.median(self.divergence[:, 0]))

    @property
    def weight(self) -> Array:
        """(N, k): 1 / (1 + (divergence / typical)²), near 1 for one of the same kind and near 0 for a stranger."""
        return 1 / (1 + (self.divergence / max(self.typical, np.finfo(float).tiny)) ** 2)


def nearest(divergence: Array, count: int = NEIGHBOURS) -> Neighbours:
    """The `count` nearest others of each client (all others where there are fewer) in the (N, N) divergence."""
    total = len(divergence)
    count = min(count, total - 1)
    who, how_far = np.empty((total, count), np.int64), np.empty((total, count))
    for start in range(0, total if count else 0, _BLOCK):
        rows = divergence[start : start + _BLOCK].copy()
        np.fill_diagonal(rows[:, start:], np.inf)
        near = _lowest(rows, count)
        far = np.take_along_axis(rows, near, axis=1)
        order = np.argsort(far, axis=1)
        who[start : start + _BLOCK] = np.take_along_axis(near, order, axis=1)
        how_far[start : start + _BLOCK] = np.take_along_axis(far, order, axis=1)
    return Neighbours(who=who, divergence=how_far)


def _lowest(rows: Array, count: int) -> NDArray[np.int64]:
    """The columns of the `count` lowest entries of each of some rows (n, N), in any order.

    They lie among the `count` stretches of columns whose lowest entries are lowest, so only those are searched.
    """
    stretches = rows.shape[1] // _STRETCH
    if stretches <= 2 * count:
        return np.argpartition(rows, count - 1, axis=1)[:, :count]
    whole = stretches * _STRETCH
    lowest = rows[:, :whole].reshape(len(rows), stretches, _STRETCH).min(axis=2)
    best = np.argpartition(lowest, count - 1, axis=1)[:, :count]
    columns = (best[:, :, None] * _STRETCH + np.arange(_STRETCH)).reshape(len(rows), -1)
    rest = np.broadcast_to(np.arange(whole, rows.shape[1]), (len(rows), rows.shape[1] - whole))
    columns = np.hstack([columns, rest])
    found = np.argpartition(np.take_along_axis(rows, columns, axis=1), count - 1, axis=1)[:, :count]
    return np.take_along_axis(columns, found, axis=1)


def agreement(probabilities: Array, neighbours: Neighbours) -> Array:
    """(N,): 1 - Jensen-Shannon divergence (base 2) to the neighbours' middle answer, the mean over the probes.

    `probabilities` is (N, Q, L). The middle answer is the coordinate-wise median of the neighbours without the
    client, scaled to sum 1. Source: Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    result = np.empty(len(probabilities))
    for start, witnesses in _witnesses(neighbours):
        rows = slice(start, start + len(witnesses))
        middle = _middle(probabilities[witnesses])  # (B, Q, L)
        middle /= np.maximum(middle.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        own = probabilities[rows]
        apart = entr((own + middle) / 2) - (entr(own) + entr(middle)) / 2
        result[rows] = 1 - apart.sum(axis=-1).mean(axis=-1) / np.log(2)
    return np.clip(result, 0, 1)


def likeness(first: Array, neighbours: Neighbours) -> Array:
    """(N,): linear CKA of a client's embeddings (N, Q, d) with the coordinate-wise median of its neighbours' own."""
    result = np.empty(len(first))
    for start, witnesses in _witnesses(neighbours):
        rows = slice(start, start + len(witnesses))
        result[rows] = _cka(_gram(first[rows]), _gram(_middle(first[witnesses])))
    return result


def plausibility(first: Array) -> Array:
    """(N,): how like the fleet's common embedding a client's embeddings (N, Q, d) are; tells invented ones.

    min(1, c / (0.3 median c)), c the linear CKA with the fleet's coordinate-wise median, which all clients share
    a good part of since they start from one model, whatever they learned after: so a rare client passes. Honest
    clients of fleets of three with label skew had down to 0.37 of the median, invented embeddings 0 to 0.1.
    """
    flat = first.reshape(len(first), -1)
    middles = [_median_of_rows(flat[:, at : at + _BLOCK]) for at in range(0, flat.shape[1], _BLOCK)]
    common = _gram(np.concatenate(middles).reshape(1, *first.shape[1:]))
    own = np.concatenate([_cka(_gram(first[at : at + _BLOCK]), common) for at in range(0, len(first), _BLOCK)])
    return _share(own, ALIKE * float(np.median(own)))


def _median_of_rows(values: Array) -> Array:
    """The coordinate-wise median of the rows (N, P): four times as fast on a copy that is laid out by coordinate."""
    return np.asarray(np.median(np.ascontiguousarray(values.T), axis=1, overwrite_input=True))


def knowledge(probabilities: Array) -> Array:
    """(N,): how much a client's answers (N, Q, L) tell of the probe; tells shuffled labels.

    1 - (1 - `standing`(u)) · min(1, h / median h). u = (h - mean over probes of H(p)) / h is the share of the
    uncertainty h = H(mean over probes of p) of its answers that the probe takes away, Theil's uncertainty coefficient
    ("On the estimation of relationships involving qualitative variables", 1970). It asks no other client what is
    right, so a client with labels of its own passes; one that learned nothing from its rows does not.
    Who nearly always gives one answer has little to know (a small h), so that is held against it less.
    """
    whole = entr(probabilities.mean(axis=1)).sum(axis=-1)
    left = entr(probabilities).sum(axis=-1).mean(axis=-1)
    told = np.divide(whole - left, whole, out=np.zeros_like(whole), where=whole > 0)
    return 1 - (1 - standing(told)) * _share(whole, float(np.median(whole)))


def standing(figures: Array) -> Array:
    """(N,): how a figure stands among the fleet's: 1 from the middle up, 1/2 where the fleet is taken to end.

    1 / (1 + ((median - figure) / w)²) below the median. w is t · sqrt(1 + 1/N) · 1.4826 · MAD: how far below others
    one more like them may be. The MAD is that of the figures below the median, which those above must not widen, or
    that of all if it is smaller, but at least 0.05 of the median. t is what three standard deviations of a normal
    distribution are where the deviation is known from so few figures (Student's t, (N - 1) // 2 degrees of freedom):
    236 among three or four, 19 among five, 9.2 among eight, 4.1 among twenty. So among few clients, and in a fleet
    that scatters widely, it is no fault to be unlike the others. 1 for one or two.
    """
    if len(figures) < 3:
        return np.ones(len(figures))
    middle = float(np.median(figures))
    below = np.maximum(middle - figures, 0)
    scatter = min(
        float(np.median(np.abs(figures - middle))), float(np.median(below[below > 0])) if below.any() else 0
    )
    deviation = 1.4826 * max(scatter, LEAST_SCATTER * abs(middle))
    wide = stdtrit((len(figures) - 1) // 2, ndtr(3)) * np.sqrt(1 + 1 / len(figures)) * deviation
    result: Array = 1 / (1 + np.square(np.divide(below, wide, out=np.zeros_like(below), where=wide > 0)))
    return result


def consistency(first: Array, probabilities: Array | None, neighbours: Neighbours) -> Array:
    """(N,) in [0, 1]: how well a client's answers fit those of clients near it, and how much there is in them.

    min(a, `knowledge`) · `plausibility`. a is the `standing` s of the client's `agreement` drawn towards the fleet's
    median standing m where few are near: (W·s + m) / (W + 1), W the sum of the neighbours' weights. A rare client has
    no near neighbours, so it is not judged by strangers. Where there are no probabilities to compare it is
    `likeness` · `plausibility`.
    NEUTRAL for all in a fleet of one or two.
    """
    if len(first) < 3:
        return np.full(len(first), NEUTRAL)
    known = np.ones(len(first)) if probabilities is None else knowledge(probabilities)
    own = likeness(first, neighbours) if probabilities is None else agreement(probabilities, neighbours)
    if probabilities is not None:
        weight, own = neighbours.weight.sum(axis=1), standing(own)
        own = (weight * own + DOUBT * float(np.median(own))) / (weight + DOUBT)
    return np.minimum(own, known) * plausibility(first)


def repeatability(first: Array, again: Array, repeated: NDArray[np.int64]) -> Array:
    """(N,) in [0, 1]: a client's agreement with itself on the probes that it was asked twice.

    1 - (mean squared distance of the two answers to one probe) / (mean squared distance of answers to two different
    probes): an intraclass correlation (Shrout and Fleiss, "Intraclass correlations", 1979). `again` (N, R, d) are the
    second answers and `repeated` (N, R) their probes. 1 where nothing was repeated, 0 where all answers are one.
    """
    if not again.shape[1]:
        return np.ones(len(first))
    twice = np.take_along_axis(first, repeated[:, :, None], axis=1)
    within = np.square(again - twice).sum(axis=-1).mean(axis=1)
    blocks = [first[at : at + _BLOCK] for at in range(0, len(first), _BLOCK)]
    between = 2 * np.concatenate([block.var(axis=1, ddof=1).sum(axis=-1) for block in blocks])
    result: Array = np.clip(
        1 - np.sqrt(np.divide(within, between, out=np.ones_like(within), where=between > 0)), 0, 1
    )
    return result


def originality(first: Array, neighbours: Neighbours, arrival: Array | None = None) -> Array:
    """(N,) in [0, 1]: 0 for a copy of another's embeddings (N, Q, d), 1 for a client's own.

    Two fingerprints closer than 0.3 of the typical distance between neighbours (the median over all clients and
    their neighbours) belong to one group, and so do those linked by others. With d the distance to the nearest of its
    group, a client gets d / (0.3 typical). `arrival` (N,) is when each was uploaded: the first of a group is the
    original and gets 1. Without it there is no telling, and none is spared: honest clients differ, since each trains
    on its own rows. Only the `neighbours` are compared: a copy is a neighbour of its original.
    """
    apart = _distances(first, neighbours)
    limit = np.full(len(first), COPIED * float(np.median(apart)) if apart.size else 0.0)
    limit = np.maximum(limit, EQUAL * first.std())
    near = apart < limit[:, None]
    closest = np.min(apart, axis=1, where=near, initial=np.inf)
    score = np.minimum(1, np.divide(closest, limit, out=np.ones_like(limit), where=limit > 0))
    if arrival is not None:
        score[_originals(near, neighbours.who, arrival)] = 1
    result: Array = score
    return result


def _originals(near: NDArray[np.bool_], who: NDArray[np.int64], arrival: Array) -> NDArray[np.int64]:
    """The first to arrive of each group of linked rows; all of those that came at one time."""
    rows, places = np.nonzero(near)
    links = coo_array((np.ones(len(rows)), (rows, who[rows, places])), shape=(len(who), len(who)))
    group = connected_components(links, directed=False)[1]
    earliest = np.full(len(who), np.inf)
    np.minimum.at(earliest, group, arrival)
    return np.flatnonzero(arrival == earliest[group])


def _distances(first: Array, neighbours: Neighbours) -> Array:
    """(N, k): root mean square difference of the embeddings of a client and of each neighbour."""
    flat = first.reshape(len(first), -1)
    apart = np.empty(neighbours.who.shape)
    for place, who in enumerate(neighbours.who.T):
        for start in range(0, len(flat), _BLOCK):
            rows = slice(start, start + _BLOCK)
            apart[rows, place] = np.square(flat[rows] - flat[who[rows]]).mean(axis=1)
    return np.sqrt(apart)


def _witnesses(neighbours: Neighbours) -> list[tuple[int, NDArray[np.int64]]]:
    """Blocks of clients: where each starts, and (B, k) who speaks for each, its near ones in turn up to k."""
    near = np.count_nonzero(neighbours.divergence <= REACH * neighbours.typical, axis=1)  # they come first
    count = neighbours.who.shape[1]
    turn = np.arange(count) % np.where(near, near, count)[:, None]
    chosen = np.take_along_axis(neighbours.who, turn, axis=1)
    return [(start, chosen[start : start + _BLOCK]) for start in range(0, len(chosen), _BLOCK)]


def _middle(answers: Array) -> Array:
    """The coordinate-wise median over axis 1, by sorting, which over so few is twice as fast as np.median."""
    ordered, count = np.sort(answers, axis=1), answers.shape[1]
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


def _gram(embeddings: Array) -> Array:
    """(B, Q, Q) inner products of the embeddings (B, Q, d) with zero diagonals, as the estimator wants."""
    products = embeddings @ embeddings.transpose(0, 2, 1)
    diagonal = np.arange(products.shape[1])
    products[:, diagonal, diagonal] = 0
    return products


def _cka(left: Array, right: Array) -> Array:
    """(B,): linear CKA of two sets of Gram matrices, at least 0; 0 for embeddings that are all one.

    Source: Kornblith et al., "Similarity of neural network representations revisited" (2019), with the unbiased
    estimator of Song et al., "Feature selection via dependence maximization" (2012): with as few probes as
    dimensions the plain one finds likeness in noise.
    """
    both, one, other = _hsic(left, right), _hsic(left, left), _hsic(right, right)
    scale = np.sqrt(np.maximum(one, 0) * np.maximum(other, 0))
    result: Array = np.clip(np.divide(both, scale, out=np.zeros_like(both), where=scale > 0), 0, 1)
    return result


def _hsic(left: Array, right: Array) -> Array:
    """(B,): the unbiased estimator up to a constant, for Gram matrices (B, Q, Q) or (1, Q, Q) with zero diagonals."""
    size = left.shape[1]
    one, other = left.sum(axis=1), right.sum(axis=1)
    inner = np.einsum("bij,bij->b", *np.broadcast_arrays(left, right))
    whole = one.sum(axis=1) * other.sum(axis=1) / ((size - 1) * (size - 2))
    result: Array = inner + whole - 2 / (size - 2) * (one * other).sum(axis=1)
    return result


def _share(figures: Array, full: float) -> Array:
    """min(1, figure / full), at least 0; 1 for all where even the fleet's middle has nothing."""
    return np.clip(figures / full, 0, 1) if full > 0 else np.ones_like(figures)
