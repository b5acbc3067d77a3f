"""How far apart clients' fingerprints are: the symmetric Kullback–Leibler divergence of their Gaussians, all at once.

R(a, b) = ½(KL(a‖b) + KL(b‖a)) (paper: arXiv 2601.13824). In closed form the log-determinants cancel:

    4R = tr(Σa⁻¹Σb) + tr(Σb⁻¹Σa) − 2d + (μa − μb)ᵀ(Σa⁻¹ + Σb⁻¹)(μa − μb)

Traces and quadratic forms are inner products of d×d matrices, so with one vector of d² + 3d + 2 numbers a client
(`_factors`) the whole matrix is one product of matrices; clusters, trust and assignment start from it. A linear map
of all clients' embeddings changes no R, so the vectors are made where the average client's covariance is the
identity: there they are small when clients are alike, and little is lost to rounding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.fingerprint import BLOCK, Gaussians

Array = NDArray[np.float64]


def divergences(gaussians: Gaussians) -> Array:
    """R of every pair of clients: (clients, clients), symmetric, zero on the diagonal, at least 0.

    Rounding leaves an absolute error of about 1e-16 times the largest condition number of the two covariances as the
    average client sees them: below 1e-11 with the usual shrinkage of 0.01, up to about 1e-6 between
    clients at the floor of `gaussians`.
    """
    frame, count = _Frame.of(gaussians), len(gaussians)
    result = np.empty((count, count))
    left = _factors(gaussians, frame)
    right = _swapped(left)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        np.matmul(left[start:stop], right[:stop].T, out=result[start:stop, :stop])
        np.maximum(result[start:stop, :stop], 0.0, out=result[start:stop, :stop])
        result[:start, start:stop] = result[start:stop, :start].T
        own = result[start:stop, start:stop]
        own[:] = (own + own.T) / 2
    np.fill_diagonal(result, 0.0)
    return result


def between(some: Gaussians, others: Gaussians) -> Array:
    """R of each of some clients and each of some others, as late clients and the medoids: (some, others)."""
    frame = _Frame.of(others)
    right = _swapped(_factors(others, frame))
    result = np.empty((len(some), len(others)))
    for start in range(0, len(some), BLOCK):
        block = slice(start, start + BLOCK)
        np.maximum(_factors(some[block], frame) @ right.T, 0.0, out=result[block])
    return result


def to_landmarks(gaussians: Gaussians, landmarks: NDArray[np.int64]) -> Array:
    """The columns of some clients, (clients, landmarks), of the matrix of `divergences`, which is never made."""
    columns = between(gaussians, gaussians[landmarks])
    columns[landmarks, np.arange(len(landmarks))] = 0.0
    return columns


def scale(matrix: Array) -> float:
    """The median of R, (clients, clients), off its diagonal; R is used divided by it, as its size follows shrinkage.

    Where that is 0 (more than half of the pairs alike) it is the mean, and where that is 0 too (all alike, or one
    client) it is 1.
    """
    pairs = np.concatenate([row[:place] for place, row in enumerate(matrix)]) if len(matrix) else np.empty(0)
    if not pairs.any():
        return 1.0
    return float(np.median(pairs, overwrite_input=True)) or float(pairs.mean())


def scaled(matrix: Array) -> Array:
    """R over its `scale`."""
    return matrix / scale(matrix)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Frame:
    """Where the average client has mean 0 and covariance I; robust, so that no single client can move it far."""

    origin: Array  # (d,), the coordinate-wise median of the means
    turn: Array  # (d, d), from there to here

    @classmethod
    def of(cls, gaussians: Gaussians) -> "_Frame":
        dimensions = gaussians.means.shape[1]
        if not len(gaussians):
            return cls(origin=np.zeros(dimensions), turn=np.eye(dimensions))
        level = np.trace(gaussians.covariances, axis1=1, axis2=2) / dimensions
        average = np.einsum("n,nij->ij", 1 / (level * len(level)), gaussians.covariances)
        turn = np.linalg.inv(np.linalg.cholesky(average)) / np.sqrt(np.median(level))
        return cls(origin=np.median(gaussians.means, axis=0), turn=turn)


def _factors(gaussians: Gaussians, frame: _Frame) -> Array:
    """Vectors (clients, 2·(½d(d + 1) + d + 1)) such that R(a, b) is the inner product of a's and b's `_swapped`.

    With P = Σ⁻¹, S = Σ − I and T = P − I, both zero for the average client,

        4R = g(a, b) + g(b, a),  g(a, b) = <Tb, Sa + μaμaᵀ> − 2·<Pbμb, μa> + μbᵀPbμb + μbᵀμb − <Tb, Sb>

    (since <Ta − Tb, Sa − Sb> has the traces of R, and <P, Σ> is d). Half of each vector is what stands by a
    in g(a, b), half what stands by b. Of symmetric matrices only one triangle is kept.
    """
    dimensions = gaussians.means.shape[1]
    half = dimensions * (dimensions + 1) // 2 + dimensions + 1
    factors = np.empty((len(gaussians), 2 * half))
    for start in range(0, len(gaussians), BLOCK):
        block = slice(start, start + BLOCK)
        plain, inverse = _halves(gaussians[block], frame)
        factors[block, :half], factors[block, half:] = plain / 4, inverse
    return factors


def _halves(gaussians: Gaussians, frame: _Frame) -> tuple[Array, Array]:
    means = (gaussians.means - frame.origin) @ frame.turn.T
    covariances = frame.turn @ gaussians.covariances @ frame.turn.T
    precisions = np.linalg.inv(covariances)
    pulled = np.einsum("nij,nj->ni", precisions, means)
    identity = np.eye(means.shape[1])
    excess, lack = _triangle(covariances - identity), _triangle(precisions - identity)
    constant = ((pulled + means) * means).sum(axis=1) - (excess * lack).sum(axis=1)
    squares = _triangle(means[:, :, None] * means[:, None])
    plain = np.column_stack([excess + squares, -2 * means, np.ones(len(means))])
    return plain, np.column_stack([lack, pulled, constant])


def _triangle(matrices: Array) -> Array:
    """Symmetric (n, d, d) as (n, ½d(d + 1)) with the same inner products: off the diagonal times √2."""
    rows, columns = np.tril_indices(matrices.shape[1])
    return np.asarray(matrices[:, rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0)))


def _swapped(factors: Array) -> Array:
    return np.roll(factors, factors.shape[1] // 2, axis=1)
