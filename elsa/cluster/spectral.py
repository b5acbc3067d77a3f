"""What spectral clustering sees: clients as points whose directions tell the groups apart.

A = exp(-R / median R) from the divergences R, plus the mean degree spread evenly over all pairs, normalised by the
degrees; the leading eigenvectors, one row a client. The even part is the regularisation of Zhang and Rohe (2018,
"Understanding regularized spectral clustering via graph conductance"): without it a single odd client is a component
of its own and takes a cluster that two real groups then have to share.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

DENSE_UP_TO = 1_500  # clients; beyond, leading eigenvectors by subspace iteration in single precision
MEDIAN_ROWS = 1_000  # the median is taken over the pairs of this many clients: exact up to as many
EQUAL_NATS = 1e-6  # two clients this near are one and the same: uploads carry no finer difference
_SWEEPS = 6
_SPARE = 20  # further directions carried along, so that the last ones asked for converge
_BLOCK = 1_000  # rows worked on at a time, so that no second matrix of doubles is made


def median_scale(divergence: NDArray[np.float64], own: NDArray[np.int64], seed: Sequence[int]) -> float:
    """Return the median divergence over pairs of different clients; 0 when all clients are equal.

    Where more than half of the pairs are equal, it is the median of the others. `divergence` is (clients, columns),
    and `own` (columns,) says which row is the client of each column.
    """
    clients = len(divergence)
    rows = np.arange(clients)
    if clients > MEDIAN_ROWS:
        rows = np.sort(np.random.default_rng([*seed, 1]).choice(clients, MEDIAN_ROWS, replace=False))
    pairs = divergence[rows][rows[:, None] != own]
    middle = float(np.median(pairs)) if pairs.size else 0.0
    if middle > EQUAL_NATS:
        return middle
    apart = pairs[pairs > EQUAL_NATS]
    return float(np.median(apart)) if apart.size else 0.0


def affinity(divergence: NDArray[np.float64], scale: float) -> NDArray[np.floating]:
    """Return exp(-divergence / scale): doubles for small fleets, else single precision."""
    near = np.empty(divergence.shape, np.float64 if len(divergence) <= DENSE_UP_TO else np.float32)
    for start in range(0, len(divergence), _BLOCK):
        block = divergence[start : start + _BLOCK].astype(near.dtype)
        block *= -1 / scale
        np.exp(block, out=near[start : start + _BLOCK])
    return near


def normalise(near: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn a square affinity, in place, into D^-1/2 (A + mean degree / n) D^-1/2."""
    degree = near.sum(axis=1, dtype=np.float64)
    even = degree.mean()
    near += near.dtype.type(even / len(near))
    root = (1 / np.sqrt(degree + even)).astype(near.dtype)
    near *= root
    near *= root[:, None]
    return near


def leading(
    matrix: NDArray[np.floating], count: int, seed: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the `count` largest eigenvalues (count,) of a symmetric matrix, descending, and vectors (n, count).

    Small matrices are solved whole (LAPACK); others by subspace iteration from a seeded start (Halko, Martinsson and
    Tropp 2011, algorithm 4.4), which has converged for every eigenvalue before the first clear gap.
    """
    clients = len(matrix)
    if clients <= DENSE_UP_TO:
        values, vectors = eigh(matrix, subset_by_index=[clients - count, clients - 1])
        return values[::-1], signed(vectors[:, ::-1])
    start = np.random.default_rng([*seed, 2]).standard_normal((clients, count + _SPARE))
    basis = start.astype(matrix.dtype)
    for _ in range(_SWEEPS):
        basis = np.linalg.qr(matrix @ basis)[0]
    inner = (basis.T @ (matrix @ basis)).astype(np.float64)
    values, turn = np.linalg.eigh((inner + inner.T) / 2)
    vectors = basis @ turn[:, ::-1][:, :count].astype(matrix.dtype)
    return values[::-1][:count], signed(vectors.astype(np.float64))


def signed(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vectors with the largest entry of each column made positive: a solver may give either sign."""
    peak = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[peak, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def directions(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows at length one (Ng, Jordan and Weiss 2002); a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
