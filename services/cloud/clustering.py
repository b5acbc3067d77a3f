"""Groups of clients that behave alike and how far each is trusted, from their fingerprints; records in, groups out.

`placing.py` gives each an edge. What cannot be had is fallen back from, and the notes say so: nothing that clients
send or leave out ends a run here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from elsa.cluster import clusters, divergence
from elsa.cluster.count import Count
from elsa.cluster.fingerprint import gaussians
from elsa.cluster.trust import Parts, smoothed
from elsa.cluster.trust_probes import NEUTRAL, nearest
from elsa.clustering import TrustSpec
from elsa.spec import RunSpec
from services.cloud.behaviour import Behaviour
from services.cloud.comparing import Compared, compared
from services.cloud.records import Fingerprint, Standing

Array = NDArray[np.float64]

LATE_AMONG = 500
"""A late fingerprint's trust is measured among so many others at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """What the fingerprints tell; a client that sent none is in no mapping."""

    labels: Mapping[str, int] = field(default_factory=dict)
    medoids: tuple[str, ...] = ()
    """The client in the middle of each cluster; none where there are no clusters."""
    distance: Mapping[str, Array] = field(default_factory=dict)
    """To each cluster's medoid, (clusters,), in medians of all divergences."""
    parts: Mapping[str, Parts] = field(default_factory=dict)
    trust: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def grouped(
    spec: RunSpec,
    fingerprints: Sequence[Fingerprint],
    clients: int,
    edges: int,
    standings: Mapping[str, Standing] | None = None,
) -> Groups:
    """The groups in a run of `clients` clients and `edges` edges: one of all where fewer than two sent anything.

    Args:
        standings: how clients stood before, where they are grouped anew: trust goes on from there.
    """
    before = standings or {}
    notes = [f"{len(fingerprints)} of {clients} clients sent a fingerprint"]
    if len(fingerprints) < 2:
        return Groups(notes=(*notes, "too few to compare: one cluster, edges by latency alone"))
    behaviour = Behaviour.of(fingerprints)
    apart = compared(gaussians(behaviour.first, spec.clustering.shrinkage), spec.seed)
    notes.append(apart.note)
    told = behaviour.parts(apart.near())
    parts = {client: followed(own, before.get(client)) for client, own in told.items()}
    trust, note = trusted(spec.trust, parts)
    trust = smoothed({client: before[client].trust for client in trust if client in before}, trust)
    aside = {client for client, kept in before.items() if kept.set_aside}
    found = _clusters(spec, behaviour.ids, apart, trust, aside, edges)
    return replace(found, parts=parts, trust=trust, notes=tuple(filter(None, [*notes, *found.notes, note])))


def trusted(spec: TrustSpec, parts: Mapping[str, Parts]) -> tuple[dict[str, float], str]:
    """How far each client's update counts before the first round, and what was fallen back to."""
    if not spec.enabled:
        return dict.fromkeys(parts, 1.0), ""
    scores = {client: own.score for client, own in parts.items()}
    best = max(scores.values())
    if best > 0 and best >= spec.min_trust:
        return scores, ""
    low = f"trust of all {len(scores)} is below trust.min_trust {spec.min_trust:g} (the best {best:.3f})"
    return dict.fromkeys(parts, NEUTRAL), f"{low}: they all count alike"


def followed(parts: Parts, before: Standing | None) -> Parts:
    """What a new fingerprint tells of a client, with what its updates told before."""
    if before is None or before.parts is None:
        return parts
    return replace(parts, direction=before.parts.direction, norm=before.parts.norm)


def answered_again(before: Standing, parts: Parts, *, weighed: bool) -> Standing:
    """How a client stands whose new fingerprint has these parts: its trust goes on from before if it is `weighed`.

    Whether it is set aside, and for how many rounds it was too low, its updates alone say.
    """
    parts = followed(parts, before)
    trust = smoothed({"": before.trust}, {"": parts.score})[""] if weighed else before.trust
    return replace(before, parts=parts, trust=trust)


def neutral(spec: TrustSpec) -> float:
    """How far a client counts of which nothing is known."""
    return NEUTRAL if spec.enabled else 1.0


def joins(
    spec: RunSpec, fingerprint: Fingerprint, others: Sequence[Fingerprint], medoids: Sequence[Fingerprint]
) -> tuple[int, Parts]:
    """The cluster whose medoid is nearest to a late client, and the parts of its trust, measured among some `others`.

    Without medoids there is one cluster, 0.
    """
    known = {kept.client_id: kept for kept in [*medoids, *others] if kept.client_id != fingerprint.client_id}
    behaviour = Behaviour.of([fingerprint, *list(known.values())[: LATE_AMONG + len(medoids)]])
    apart = divergence.divergences(gaussians(behaviour.first, spec.clustering.shrinkage))
    own = behaviour.parts(nearest(apart))[fingerprint.client_id]
    rows = [behaviour.ids.index(medoid.client_id) for medoid in medoids]
    cluster = int(clusters.nearest(apart[:1, rows])[0]) if rows else 0
    return cluster, own


def _clusters(
    spec: RunSpec,
    ids: tuple[str, ...],
    apart: Compared,
    trust: Mapping[str, float],
    aside: Collection[str],
    edges: int,
) -> Groups:
    """The clusters of those who are trusted; each of the others joins the one whose medoid is nearest to it.

    Else several bad clients could make up a cluster of their own that the number of clusters then lacks.
    """
    asked = spec.clustering.clusters
    count: Count = edges if asked == "edges" else asked
    method: clusters.Method = "agglomerative" if spec.clustering.method == "agglomerative" else "spectral"
    least = spec.trust.min_trust
    shaping = [row for row, client in enumerate(ids) if trust[client] >= least and client not in aside]
    shaping = shaping if len(shaping) > 1 else list(range(len(ids)))
    found = apart.find(ids, np.array(shaping), method, count, spec.seed)
    medoids = tuple(found.medoids[cluster] for cluster in sorted(found.medoids))
    columns = apart.to(np.array([ids.index(medoid) for medoid in medoids]))
    closest = dict(zip(ids, clusters.nearest(columns).tolist(), strict=True))
    distance = columns / apart.scale
    left = len(ids) - len(shaping)
    return Groups(
        labels={client: found.labels.get(client, closest[client]) for client in ids},
        medoids=medoids,
        distance=dict(zip(ids, distance, strict=True)),
        notes=(found.note, f"{left} with little trust joined the nearest clusters" if left else ""),
    )
