"""Who learns with whom as the cloud tells it: checked, and in the order in which `elsa clusters` shows it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa.errors import MalformedError
from elsa.v1 import run_pb2 as pb
from elsa.v1.tensor_pb2 import DType, Tensor
from services.cli.scores import Score, line_of, scores_from_proto

LOW_TRUST = 0.5
"""Honest clients are meant to stay above it, those with rare data too; who is below is marked."""
MOST_DIVERGENCES = 400
"""Clients of more are too many for one message (`GetClustersResponse.divergence`)."""
PARTS = ("consistency", "repeatability", "originality", "update")
"""Fields of `TrustParts`."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where one client stands."""

    client: str
    cluster: int
    edge: str
    trust: float
    set_aside: bool
    latency_ms: float
    parts: Mapping[str, float] | None
    """Of its trust, by the names of PARTS; None without a fingerprint."""
    why: str

    @property
    def mark(self) -> str:
        """As `mark_of` says."""
        return mark_of(self.trust, set_aside=self.set_aside)


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """All clients of a run by cluster, and what parts them."""

    version: int
    count: int
    how: str
    """How it was decided, on one line."""
    clients: Sequence[Standing]
    """By cluster, edge and name."""
    divergence: NDArray[np.float64] | None
    """Over its median, (clients, clients) in the same order; NaN where there is no fingerprint."""
    scores: Sequence[Score]
    """Of the clusters that have been evaluated."""

    def lines(self) -> list[str]:
        """A line for each cluster: its size, and how good the run's adapter and its own are for it."""
        sizes = Counter(standing.cluster for standing in self.clients)
        scores = {score.cluster: score for score in self.scores}
        return [line_of(cluster, size, scores.get(cluster)) for cluster, size in sorted(sizes.items())]

    def as_json(self) -> dict[str, Any]:
        """The same as lists and mappings that JSON knows; what is unknown is None."""
        return {
            "version": self.version,
            "clusters": self.count,
            "how": self.how,
            "clients": [_standing_as_json(standing) for standing in self.clients],
            "scores": [score.as_json() for score in self.scores],
            "divergence": None if self.divergence is None else [_row_as_json(row) for row in self.divergence],
        }


def mark_of(trust: float, *, set_aside: bool) -> str:
    """What is to be noticed about a client: 'set aside', 'low trust' or nothing."""
    return "set aside" if set_aside else "low trust" if trust < LOW_TRUST else ""


def clusters_from_proto(answer: pb.GetClustersResponse) -> Clusters:
    """What the cloud answers, in the order in which it is shown. Raises MalformedError naming the field."""
    told = answer.clustered
    if not told.places:
        raise MalformedError("GetClustersResponse.clustered: holds no client; look into the cloud's log")
    standings = [standing_from_proto(place) for place in told.places]
    order = sorted(
        range(len(standings)), key=lambda n: (standings[n].cluster, standings[n].edge, standings[n].client)
    )
    divergence = None
    if answer.HasField("divergence"):
        divergence = _matrix(answer.divergence, len(standings))[np.ix_(order, order)]
    return Clusters(
        version=told.version,
        count=told.clusters,
        how=" ".join(told.detail.split()),
        clients=tuple(standings[place] for place in order),
        divergence=divergence,
        scores=scores_from_proto(answer.scores),
    )


def standing_from_proto(place: pb.ClientPlace) -> Standing:
    """One client's. Raises MalformedError naming the field."""
    parts = {name: getattr(place.parts, name) for name in PARTS} if place.HasField("parts") else None
    for name, value in (("trust", place.trust), *(parts or {}).items()):
        if not 0 <= value <= 1:
            raise MalformedError(f"ClientPlace.{name}: {value} of {place.client_id!r} is not from 0 to 1")
    if not 0 <= place.latency_ms < math.inf:
        raise MalformedError(f"ClientPlace.latency_ms: {place.latency_ms} of {place.client_id!r} is no time")
    return Standing(
        client=place.client_id,
        cluster=place.cluster,
        edge=place.edge_id,
        trust=place.trust,
        set_aside=place.set_aside,
        latency_ms=place.latency_ms,
        parts=parts,
        why=" ".join(place.detail.split()),
    )


def _matrix(tensor: Tensor, clients: int) -> NDArray[np.float64]:
    shape, field = (clients, clients), "GetClustersResponse.divergence"
    if tensor.dtype != DType.DTYPE_FLOAT32 or tuple(tensor.shape) != shape or len(tensor.data) != 4 * clients**2:
        raise MalformedError(
            f"{field}: type {tensor.dtype}, shape {list(tensor.shape)}, {len(tensor.data)} bytes; "
            f"expected float32 of shape {list(shape)}"
        )
    matrix = np.frombuffer(tensor.data, "<f4").reshape(shape).astype(np.float64)
    if np.isinf(matrix).any() or (matrix < 0).any():
        raise MalformedError(f"{field}: holds infinity or a number below 0")
    return matrix


def _standing_as_json(standing: Standing) -> dict[str, Any]:
    parts = standing.parts
    return {
        "client": standing.client,
        "cluster": standing.cluster,
        "edge": standing.edge,
        "trust": round(standing.trust, 6),
        "parts": None if parts is None else {name: round(value, 6) for name, value in parts.items()},
        "set_aside": standing.set_aside,
        "latency_ms": round(standing.latency_ms, 3),
        "why": standing.why,
    }


def _row_as_json(row: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 6) for value in row]
