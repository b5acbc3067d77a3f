"""What an assignment of clients to edges is decided by, and what each pair of client and edge costs.

`fingerprint.py`, `clusters.py` and `trust.py` give distances and trust, registration gives links and room;
`assignment.py` solves it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.room import Latencies, latency_matrix
from elsa.errors import SpecError

Floats = NDArray[np.float64]

FARTHEST = 100.0
"""Distances beyond so many medians count as this: no fingerprint, however strange, outweighs the rest of a fleet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Clients, edges, and what decides between them: N clients in the order of `ids`, E edges in that of `edges`.

    Raises:
        SpecError: for a weight, a bound or a cost of a move that cannot be used.
        ValueError: for arrays whose shapes or values do not belong together.
    """

    ids: tuple[str, ...]
    edges: tuple[str, ...]
    capacities: NDArray[np.int_]
    """(E,), clients; 0 or less: no room."""
    latencies_ms: Floats
    """(N, E); not finite: out of reach."""
    latency_bound_ms: float | Floats = math.inf
    """One for all or one a client, (N,): an edge beyond it is out of reach."""
    distance: Floats | None = None
    """(N, E), from client to the medoid of the edge's cluster, in medians; None without clusters."""
    trust: Floats | None = None
    """(N,) in [0, 1]; None: all are trusted."""
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    previous: Mapping[str, str] = field(default_factory=dict)
    """The edge of each client that had one; the others are new."""
    move_cost: float = math.inf
    """What it costs to take a client from its previous edge, in units of the objective; infinite: nobody is moved
    who need not be, and as few as possible who must."""

    def __post_init__(self) -> None:
        self._check_what_was_asked()
        self._check_arrays()

    def _check_what_was_asked(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SpecError(f"{name} is {getattr(self, name)}; give a finite weight of 0 or more")
        if not self.move_cost >= 0:
            raise SpecError(f"move_cost is {self.move_cost}; give 0 or more, or infinity to move as few as possible")
        if not (np.asarray(self.latency_bound_ms) > 0).all():
            raise SpecError(
                f"latency_bound_ms is {self.latency_bound_ms}; give more than 0 ms, infinity for no bound"
            )

    def _check_arrays(self) -> None:
        count, width = len(self.ids), len(self.edges)
        if len(set(self.ids)) < count or len(set(self.edges)) < width:
            raise ValueError("a client or an edge is named twice")
        shapes = {
            "capacities": (width,),
            "latencies_ms": (count, width),
            "distance": (count, width),
            "trust": (count,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; {count} clients and {width} edges need {shape}")
        if np.shape(self.latency_bound_ms) not in ((), (count,)):
            raise ValueError(f"latency_bound_ms has shape {np.shape(self.latency_bound_ms)}; give one, or {count}")
        if self.distance is not None and not ((self.distance >= 0) & np.isfinite(self.distance)).all():
            raise ValueError("distance holds values that are negative or not finite")
        if self.trust is not None and not ((self.trust >= 0) & (self.trust <= 1)).all():
            raise ValueError("trust holds values outside [0, 1]")

    @classmethod
    def by_latency(cls, latencies_ms: Latencies, capacities: Mapping[str, int]) -> "Problem":
        """The problem in which only latencies count: the lowest sum of them wins.

        Edges that `capacities` does not hold are out of reach, as are those that a client has no latency to.
        """
        ids, edges = tuple(sorted(latencies_ms)), tuple(sorted(capacities))
        room = np.array([capacities[edge] for edge in edges], int)
        return cls(ids=ids, edges=edges, capacities=room, latencies_ms=latency_matrix(latencies_ms, ids, edges))

    @property
    def bounds_ms(self) -> Floats:
        """The bound of each client, (N,)."""
        return np.broadcast_to(np.asarray(self.latency_bound_ms, float), (len(self.ids),))

    @property
    def room(self) -> NDArray[np.int_]:
        """How many clients each edge could take at most, (E,)."""
        return np.clip(self.capacities, 0, len(self.ids))

    def costs(self) -> Floats:
        """What each client costs at each edge, moves left out: (N, E), infinite out of reach.

        alpha·distance + beta·latency/bound + gamma·(1 − trust)·harm, distances at most FARTHEST. Latencies without a
        bound are divided by the largest of them within reach, so that each term is of the order of one. The harm of
        an edge is in [0, 1], see `harm`.
        """
        own = self._own()
        if self.trust is None or not self.gamma:
            return own
        costs: Floats = own + self.gamma * (1 - self.trust)[:, None] * self.harm()
        return costs

    def harm(self) -> Floats:
        """How much a client that is not trusted is in the way at each edge, (E,) in [0, 1].

        The trust that wants to be there, each client at its own cheapest edge (shared among equals), for the edge's
        room, as a share of the highest: 1 where the trusted crowd, 0 where none of them wants to be. A client
        without trust so leaves the seats that others want and goes where room is left and the fewest learn beside
        it. The paper names a term (1 − trust) alone, which is the same at every edge and would decide nothing; this
        definition is ours. It is zero everywhere if nobody is trusted.
        """
        own = self._own()
        trust = np.ones(len(self.ids)) if self.trust is None else self.trust
        cheapest = np.isfinite(own) & (own == own.min(axis=1, keepdims=True, initial=math.inf))
        shares = cheapest / np.maximum(cheapest.sum(axis=1, keepdims=True), 1)
        crowd: Floats = (trust @ shares) / np.maximum(self.room, 1)
        return crowd / (crowd.max(initial=0.0) or 1.0)

    def _own(self) -> Floats:
        latencies, bounds = self.latencies_ms, self.bounds_ms[:, None]
        reach = np.isfinite(latencies) & (latencies <= bounds) & (self.room > 0)
        unbounded = reach & ~np.isfinite(bounds)
        longest = latencies.max(initial=0.0, where=unbounded) or 1.0
        scale = np.where(np.isfinite(bounds), bounds, longest)
        own = self.beta * np.where(reach, latencies, 0.0) / scale
        if self.distance is not None:
            own = own + self.alpha * np.minimum(self.distance, FARTHEST)
        return np.where(reach, own, math.inf)
