"""Groups of clients whose models behave alike, from the divergences between their fingerprints.

`find` takes the whole matrix of divergences (up to some ten thousand clients); `landmarks.find_by_landmarks` takes
a few of its columns. The result is the same in whatever order the clients come, and for a seed always the same.
Clients that are known to be bad are best left out: several of them may form a group of their own, which a fixed
number of clusters then counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from elsa.cluster import spectral
from elsa.cluster.count import Count, affordable, chosen_count, different, fewer, no_structure, spare
from elsa.cluster.grouping import medoids, merged, numbered, partition
from elsa.errors import MalformedError, SpecError

Method = Literal["spectral", "agglomerative", "none"]


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Who belongs together, and by what."""

    labels: Mapping[str, int]  # cluster by client; clusters are numbered by the smallest client id in them
    medoids: Mapping[int, str]  # by cluster, the member with the least sum of divergences to the others
    eigenvalues: tuple[float, ...] = field(default=())  # descending; empty where none were needed
    note: str = ""  # what was done otherwise than asked, for the event log


def find(
    ids: Sequence[str],
    divergence: NDArray[np.float64],
    *,
    method: Method = "spectral",
    count: Count = "eigengap",
    seed: Sequence[int] = (0,),
    most: int = 64,
) -> Clusters:
    """Group clients by their divergences.

    `divergence` is (clients, clients), symmetric, in nats, in the order of `ids`. `count` is the number of clusters,
    or "eigengap": the number, at most `most`, before the largest relative gap of the eigenvalues, or 1 where none is
    clear. `agglomerative` merges by the mean of 1 - exp(-R / median R); `none` is one cluster of all. Where fewer
    clients differ than `count`, there are that many clusters; the note says so, as it does when all are equal.

    Raises SpecError for a method, count, `most` or ids that cannot be used, MalformedError for divergences of another
    shape, not finite or below zero.
    """
    check_request(ids, method, count, most)
    check_divergence(divergence, (len(ids), len(ids)))
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    names = [ids[at] for at in order]
    if not np.array_equal(order, np.arange(len(ids))):
        divergence = divergence[np.ix_(order, order)]
    marks, eigenvalues, note = _marks(divergence, method, count, seed, most)
    labels = numbered(marks)
    middle = medoids(labels, divergence, np.arange(len(names)))
    return Clusters(
        labels=dict(zip(names, labels.tolist(), strict=True)),
        medoids={cluster: names[at] for cluster, at in enumerate(middle) if at is not None},
        eigenvalues=tuple(eigenvalues.tolist()),
        note=note,
    )


def nearest(divergence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each late client the cluster (n,) whose medoid diverges least from it; of equals the first.

    `divergence` is (n, clusters), in nats. Raises MalformedError where it is empty of clusters or not finite.
    """
    if divergence.ndim != 2 or not divergence.shape[1]:
        raise MalformedError(f"divergence: shape {divergence.shape}; want (late clients, one or more clusters)")
    check_divergence(divergence, divergence.shape)
    return np.asarray(divergence.argmin(axis=1), np.int64)


def _marks(
    divergence: NDArray[np.float64], method: Method, count: Count, seed: Sequence[int], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], str]:
    """Return a mark for each client (any numbers), the eigenvalues and the note."""
    clients, none = len(divergence), np.empty(0)
    everyone = np.zeros(clients, np.int64)
    if method == "none":
        return everyone, none, ""
    every = np.arange(clients)
    scale = spectral.median_scale(divergence, every, seed)
    if scale == 0:
        return everyone, none, no_structure(clients, count)
    count, note = affordable(count, different(divergence))
    near = spectral.affinity(divergence, scale)
    if method == "agglomerative" and count != "eigengap":
        return merged(near, count), none, note
    matrix = spectral.normalise(near)
    eigenvalues, vectors = spectral.leading(matrix, min(clients, spare(count, most)), seed)
    chosen, why = chosen_count(count, eigenvalues, clients)
    note += why
    if method == "agglomerative":
        del near, matrix
        return merged(spectral.affinity(divergence, scale), chosen), eigenvalues, note
    marks = partition(spectral.directions(vectors[:, :chosen]), chosen, seed)
    return marks, eigenvalues, note + fewer(len(np.unique(marks)), chosen)


def check_request(ids: Sequence[str], method: str, count: Count, most: int) -> None:
    """Raise SpecError unless clusters can be asked for so."""
    if not ids:
        raise SpecError("clusters: no client to group; wait for fingerprints or lower the quorum")
    if len(set(ids)) < len(ids):
        raise SpecError("clusters: a client is named twice; give each its own id")
    if method not in ("spectral", "agglomerative", "none"):
        raise SpecError(f"clusters: no method {method!r}; choose spectral, agglomerative or none")
    if count != "eigengap" and (isinstance(count, str) or count < 1):
        raise SpecError(f"clusters: count {count!r}; give a number from 1, or eigengap")
    if most < 2:
        raise SpecError(f"clusters: most {most}; the eigengap needs 2 or more to choose from")


def check_divergence(divergence: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    """Raise MalformedError unless the divergences have this shape, are finite and nowhere below zero."""
    if divergence.shape != shape:
        raise MalformedError(f"divergence: shape {divergence.shape}; want {shape}, in the order of the clients")
    if divergence.size and not (divergence.min() >= 0 and np.isfinite(divergence.max())):
        raise MalformedError("divergence: holds NaN, infinity or values below zero; check the fingerprints")
