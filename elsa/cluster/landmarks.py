"""Clusters of up to 100,000 clients without their square matrix: the Nystroem method.

The divergences of every client to a thousand randomly drawn ones, the landmarks, stand for all pairs: with C the
affinities to the landmarks and W those among them, A is close to C W^-1 C' (Fowlkes et al. 2004, "Spectral grouping
using the Nystroem method"). All m landmarks miss a group that is a share s of the fleet with probability (1 - s)^m.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from elsa.cluster import spectral
from elsa.cluster.clusters import Clusters, check_divergence, check_request
from elsa.cluster.count import Count, affordable, chosen_count, different, fewer, no_structure, spare
from elsa.cluster.grouping import medoids, numbered, partition
from elsa.errors import SpecError

Columns = Callable[[NDArray[np.int64]], NDArray[np.float64]]
_NOISE = 1e-5  # of the largest eigenvalue; below it the single precision of C is all there is


def find_by_landmarks(
    ids: Sequence[str],
    columns: Columns,
    *,
    landmarks: int = 1_000,
    count: Count = "eigengap",
    seed: Sequence[int] = (0,),
    most: int = 64,
) -> Clusters:
    """Group clients by spectral clustering as `clusters.find` does, from their divergences to the landmarks.

    `columns` is called once with the places in `ids` of the landmarks, (m,), and returns their divergences from every
    client, (clients, m), in nats, in the order of `ids`. Memory grows with clients x m. A medoid is chosen among the
    landmarks of its cluster; a cluster without one takes the member nearest to its centre.

    Raises SpecError for a request that cannot be met, MalformedError for divergences that cannot be used.
    """
    check_request(ids, "spectral", count, most)
    if landmarks < 2:
        raise SpecError(f"clusters: {landmarks} landmarks; give 2 or more")
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    drawn = np.sort(np.random.default_rng([*seed, 4]).permutation(len(ids))[:landmarks])  # places among sorted ids
    divergence = columns(order[drawn])
    check_divergence(divergence, (len(ids), len(drawn)))
    divergence = divergence if np.array_equal(order, np.arange(len(ids))) else divergence[order]
    labels, eigenvalues, points, note = _grouped(divergence, drawn, count, seed, most)
    middle = [
        _central(points, labels, cluster) if at is None else at
        for cluster, at in enumerate(medoids(labels, divergence, drawn))
    ]
    return Clusters(
        labels={ids[at]: int(label) for at, label in zip(order, labels, strict=True)},
        medoids={cluster: ids[order[at]] for cluster, at in enumerate(middle)},
        eigenvalues=tuple(eigenvalues.tolist()),
        note=note,
    )


def _grouped(
    divergence: NDArray[np.float64], drawn: NDArray[np.int64], count: Count, seed: Sequence[int], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], str]:
    """Return labels, eigenvalues, the points (clients, k) that were grouped and the note."""
    clients = len(divergence)
    scale = spectral.median_scale(divergence, drawn, seed)
    if scale == 0:
        nothing = np.zeros((clients, 1))
        return np.zeros(clients, np.int64), np.empty(0), nothing, no_structure(clients, count)
    count, note = affordable(count, different(divergence[drawn]))
    near = spectral.affinity(divergence, scale)
    eigenvalues, vectors = _leading(near, drawn, min(len(drawn), spare(count, most)))
    chosen, why = chosen_count(count, eigenvalues, clients)
    points = spectral.directions(vectors[:, :chosen])
    labels = numbered(partition(points, chosen, seed))
    return labels, eigenvalues, points, note + why + fewer(int(labels.max()) + 1, chosen)


def _leading(
    near: NDArray[np.floating], drawn: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading eigenpairs of the normalised, evened affinity that C (clients, m) stands for."""
    halves = _halves(near, drawn)  # (clients, q + 1): halves @ halves.T is close to A
    degree = halves @ halves.sum(axis=0, dtype=np.float64)
    degree = np.maximum(degree, np.median(degree) * 1e-3)  # an approximation may fall below zero
    even = degree.mean()
    halves[:, -1] = np.sqrt(even / len(halves))
    halves /= np.sqrt(degree + even).astype(halves.dtype)[:, None]
    values, turn = np.linalg.eigh((halves.T @ halves).astype(np.float64))
    values, turn = values[::-1][:count], turn[:, ::-1][:, :count]
    return values, spectral.signed((halves @ turn.astype(halves.dtype)).astype(np.float64))


def _halves(near: NDArray[np.floating], drawn: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return C W^-1/2 on the q directions in which W (m, m) stands clear of noise, and a column of zeros."""
    inner = near[drawn].astype(np.float64)
    values, turn = np.linalg.eigh((inner + inner.T) / 2)
    clear = values > _NOISE * values[-1]
    root = (turn[:, clear] / np.sqrt(values[clear])).astype(near.dtype)
    return np.asarray(near @ np.hstack([root, np.zeros((len(root), 1), near.dtype)]))


def _central(points: NDArray[np.float64], labels: NDArray[np.int64], cluster: int) -> int:
    """Return the member nearest to the mean of its cluster."""
    members = np.flatnonzero(labels == cluster)
    away = points[members] - points[members].mean(axis=0)
    return int(members[np.square(away).sum(axis=1).argmin()])
