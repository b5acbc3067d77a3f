"""Shares one data set out to many clients: alike, skewed by label, or by a column; for testbeds and studies.

Every function returns one sorted int64 array of row indices for each part; each row is in exactly one part, and
the same arguments give the same parts on any machine.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elsa.errors import DataError

Indices = NDArray[np.int64]


def iid(count: int, parts: int, seed: int) -> list[Indices]:
    """`count` rows at random into `parts` whose sizes differ by at most one. Raises DataError: parts > count."""
    _check(count, parts)
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(part) for part in np.array_split(order, parts)]


def dirichlet(labels: ArrayLike, parts: int, alpha: float, seed: int, min_rows: int = 1) -> list[Indices]:
    """Parts of equal size (give or take one row) whose mixture of labels is skewed.

    Each part draws its mixture q ~ Dir(α·L·p), p being the shares of the L labels in the whole: concentration α a
    label on average, which with labels equally common is the usual symmetric Dir(α). Then rows are drawn by q
    without return; a label that is used up leaves q and the rest is rescaled, as in Hsu et al. 2019 (arXiv
    1909.06335, section 3), whose α is L times ours. The parts take turns, row by row, so what is left at the end
    falls to all of them and not to the last. α → ∞ gives every part the shares of the whole, α → 0 one label a
    part as long as rows last.

    Args:
        labels: (rows,) label of each row, integers or strings.
        alpha: concentration a label, > 0.

    Raises:
        DataError: α not above 0 or not finite, or too few rows for `min_rows` a part.
    """
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    _check(len(codes), parts, min_rows)
    if not 0 < alpha < np.inf:
        raise DataError(f"alpha {alpha} is not a Dirichlet concentration; give a finite number above 0")
    rng = np.random.default_rng(seed)
    left = np.bincount(codes, minlength=len(names))  # (labels,) rows not yet given out
    mixtures = _mixtures(rng, alpha * len(names) * left / len(codes), parts)
    queues = [iter(rng.permutation(np.flatnonzero(codes == code)).tolist()) for code in range(len(names))]
    given: list[list[int]] = [[] for _ in range(parts)]
    for turn, draw in enumerate(rng.random(len(codes))):
        wanted = np.cumsum(mixtures[turn % parts] * (left > 0))
        if wanted[-1] <= 0:  # the mixture has nothing left: take of what there is
            wanted = np.cumsum(left / left.sum())
        code = int(np.searchsorted(wanted, draw * wanted[-1], side="right"))
        left[code] -= 1
        given[turn % parts].append(next(queues[code]))
    return [np.sort(np.array(rows, dtype=np.int64)) for rows in given]


def by_column(values: Sequence[Hashable], parts: int) -> list[Indices]:
    """Rows with equal values stay together: the largest group first, each to the part with the fewest rows.

    Raises:
        DataError: fewer different values than parts.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, value in enumerate(values):
        groups.setdefault(value, []).append(row)
    if parts < 1 or parts > len(groups):
        raise DataError(
            f"{parts} parts cannot be made of {len(groups)} different values; "
            f"ask for 1 to {len(groups)} parts, or choose another column"
        )
    given: list[list[int]] = [[] for _ in range(parts)]
    for rows in sorted(groups.values(), key=len, reverse=True):
        min(given, key=len).extend(rows)
    return [np.sort(np.array(rows, dtype=np.int64)) for rows in given]


def _mixtures(rng: np.random.Generator, weights: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """(parts, labels) label mixtures; where a tiny α underflows, a draw is one label, the limit of α → 0."""
    mixtures = rng.dirichlet(weights, size=parts)
    single = np.eye(len(weights))[rng.choice(len(weights), size=parts, p=weights / weights.sum())]
    return np.where(np.isfinite(mixtures).all(axis=1, keepdims=True), mixtures, single)


def _check(count: int, parts: int, min_rows: int = 1) -> None:
    if parts < 1:
        raise DataError(f"{parts} parts cannot be made; ask for at least 1")
    if count < parts * min_rows:
        raise DataError(
            f"{count} rows are too few for {parts} parts of at least {min_rows}; "
            f"ask for at most {count // max(min_rows, 1)} parts, or give more rows"
        )
