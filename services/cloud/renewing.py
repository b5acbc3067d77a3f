"""Who learns with whom, decided anew while a run trains, from fingerprints that clients made in its newest round.

Clusters get new numbers; what a new cluster has as its adapter is that of the old one most of its clients come from.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from elsa.errors import CapacityError
from elsa.spec import RunSpec
from services.cloud.clustering import answered_again
from services.cloud.events import Place
from services.cloud.keys import works
from services.cloud.placing import Decision, decided
from services.cloud.records import Answer, Clustering, Fingerprint, Member, Run, Standing
from services.cloud.round_records import ClusterAdapter
from services.cloud.settling import clustered, current, give
from services.cloud.store import Transaction


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """What was decided anew, or why nothing was."""

    decision: Decision | None = None
    detail: str = ""
    origins: Mapping[int, int]
    """By new cluster, the old one that most of its clients come from."""


def decided_anew(
    spec: RunSpec,
    members: Sequence[Member],
    fingerprints: Sequence[Fingerprint],
    standings: Sequence[Standing],
    gone: Collection[str] = (),
) -> Renewal:
    """The clusters, trust and edges from now on; as before where too few of the clients that are not gone answered.

    As before too where not every client finds an edge, as after one was lost: `rehoming.py` then sees to those.
    """
    before = {kept.client_id: kept for kept in standings}
    clients = {member.node_id for member in members if works(member)}
    sent = [kept for kept in fingerprints if kept.client_id in clients]
    there = clients - set(gone)
    answered = sum(kept.client_id in there for kept in sent)
    if len(sent) < 2 or answered < math.ceil(spec.clustering.quorum * len(there) - 1e-9):
        return Renewal(detail=f"as before: {answered} of {len(there)} clients answered again", origins={})
    try:
        decision = decided(spec, members, sent, before)
    except CapacityError as error:
        return Renewal(detail=f"as before: {error}", origins={})
    counted: dict[int, Counter[int]] = {}
    for place in decision.places:
        if place.client_id in before:
            counted.setdefault(place.cluster, Counter())[before[place.client_id].cluster] += 1
    origins = {cluster: min(found, key=lambda old: (-found[old], old)) for cluster, found in counted.items()}
    stood = {member.node_id: member.edge_id for member in members}
    moved = sum(place.edge_id != stood[place.client_id] for place in decision.places)
    return Renewal(
        decision=decision,
        detail=f"anew, {moved} of {len(decision.places)} clients move; {decision.detail}",
        origins=origins,
    )


def renew(transaction: Transaction, run: Run, renewal: Renewal, version: int, now: float) -> None:
    """Write a renewal down, with its events: it holds from `version` on, which was made in this transaction."""
    made = transaction.all(Clustering, run_id=run.run_id)[0]
    decision = renewal.decision
    transaction.forget_fingerprints(run.run_id, but=made.version if decision is None else version)
    if decision is not None:
        made = replace(
            made,
            version=version,
            clusters=decision.clusters,
            medoids=decision.medoids,
            detail=renewal.detail,
        )
        transaction.put(made)
        for place in decision.places:
            _stand(transaction, run, place, now)
        _hand_over(transaction, run, version, renewal.origins)
    there = current(transaction, run.run_id)
    event = clustered(replace(made, version=version, detail=renewal.detail), there.places if there else ())
    transaction.append(run.run_id, event, now)


def _stand(transaction: Transaction, run: Run, place: Place, now: float) -> None:
    """Give a client its new place; one that left meanwhile has none, one whose new edge left stays where it is."""
    member = transaction.get(Member, run_id=run.run_id, node_id=place.client_id)
    edge = transaction.get(Member, run_id=run.run_id, node_id=place.edge_id)
    standing = transaction.get(Standing, run_id=run.run_id, client_id=place.client_id)
    if member is None or not works(member):
        return
    spec = RunSpec.from_yaml(run.spec)
    if standing is not None:
        transaction.put(_after(standing, place, weighed=spec.trust.enabled))
    if edge is not None and edge.answer is Answer.JOINED and place.edge_id != member.edge_id:
        give(transaction, spec, member, place.edge_id, place.detail, now)


def _after(standing: Standing, place: Place, *, weighed: bool) -> Standing:
    """How a client stands that stood so before: its trust goes on from there, by its new answers."""
    if place.parts is not None:
        standing = answered_again(standing, place.parts, weighed=weighed)
    return replace(standing, cluster=place.cluster, told=standing.trust, detail=place.detail)


def _hand_over(transaction: Transaction, run: Run, version: int, origins: Mapping[int, int]) -> None:
    """Give the new clusters their adapters of the version."""
    old = {kept.cluster: kept for kept in transaction.all(ClusterAdapter, run_id=run.run_id, version=version)}
    for cluster, origin in origins.items():
        if origin in old:
            transaction.put(replace(old[origin], cluster=cluster))
    for cluster in old.keys() - {cluster for cluster, origin in origins.items() if origin in old}:
        transaction.delete(old[cluster])
