"""How far apart a run's clients are by their fingerprints: of some thousands all pairs, of more by landmarks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elsa.cluster import clusters, divergence
from elsa.cluster.clusters import Clusters, Method
from elsa.cluster.count import Count
from elsa.cluster.fingerprint import Gaussians
from elsa.cluster.landmarks import find_by_landmarks
from elsa.cluster.trust_landmarks import nearest_by_landmarks
from elsa.cluster.trust_probes import Neighbours, nearest

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

MOST_COMPARED = 10_000
"""So many fingerprints are compared with each other, which takes 800 MB for their divergences."""
LANDMARKS = 1_000


class Compared(Protocol):
    """N clients' divergences, in nats."""

    note: str
    """How they were compared, if not all with all."""

    @property
    def scale(self) -> float:
        """The median of all."""

    def near(self) -> Neighbours:
        """Each client's nearest others."""

    def to(self, rows: Rows) -> Array:
        """Of every client to those of some rows, (N, rows)."""

    def find(self, ids: Sequence[str], rows: Rows, method: Method, count: Count, seed: int) -> Clusters:
        """The clusters of the clients of some rows; `ids` are of all."""


class AllPairs:
    """All with all: memory grows with N²."""

    note = ""

    def __init__(self, made: Gaussians) -> None:
        self._matrix = divergence.divergences(made)
        self.scale = divergence.scale(self._matrix)

    def near(self) -> Neighbours:
        """See `Compared`."""
        return nearest(self._matrix)

    def to(self, rows: Rows) -> Array:
        """See `Compared`."""
        return self._matrix[:, rows]

    def find(self, ids: Sequence[str], rows: Rows, method: Method, count: Count, seed: int) -> Clusters:
        """See `Compared`."""
        among = self._matrix if len(rows) == len(ids) else self._matrix[np.ix_(rows, rows)]
        return clusters.find([ids[row] for row in rows], among, method=method, count=count, seed=[seed])


class ByLandmarks:
    """All with some that are drawn at random: memory grows with N. Clusters are spectral, whatever is asked."""

    def __init__(self, made: Gaussians, seed: int) -> None:
        self._made = made
        drawn = np.sort(np.random.default_rng([seed, 5]).permutation(len(made))[:LANDMARKS])
        self._columns = divergence.to_landmarks(made, drawn)
        self.scale = float(np.median(self._columns)) or 1.0
        self.note = f"compared by {len(drawn)} of them, drawn at random, since there are more than {MOST_COMPARED}"

    def near(self) -> Neighbours:
        """See `Compared`; of those alone that are nearest to the same landmark."""
        return nearest_by_landmarks(self._columns, lambda rows: divergence.divergences(self._made[rows]))

    def to(self, rows: Rows) -> Array:
        """See `Compared`."""
        return divergence.to_landmarks(self._made, rows)

    def find(self, ids: Sequence[str], rows: Rows, method: Method, count: Count, seed: int) -> Clusters:
        """See `Compared`."""
        made = self._made[rows]
        found = find_by_landmarks(
            [ids[row] for row in rows],
            lambda chosen: divergence.to_landmarks(made, chosen),
            landmarks=LANDMARKS,
            count=count,
            seed=[seed],
        )
        if method == "spectral":
            return found
        notes = (found.note, f"{method} clusters need all pairs, these are spectral")
        return replace(found, note="; ".join(filter(None, notes)))


def compared(made: Gaussians, seed: int) -> Compared:
    """The divergences of at least two clients.

    Args:
        seed: of the run, for the landmarks.
    """
    return AllPairs(made) if len(made) <= MOST_COMPARED else ByLandmarks(made, seed)
