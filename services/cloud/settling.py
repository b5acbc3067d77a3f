"""Writes down who learns with whom and where: for the time being, by latency alone, or as `placing.py` decided."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from elsa.spec import RunSpec
from services.cloud.events import ClientAssigned, Clustered, Place
from services.cloud.keys import ask_first
from services.cloud.placing import Decision
from services.cloud.planning import Planning, Share
from services.cloud.records import Clustering, Member, Role, Run, Standing
from services.cloud.sharing import leave_out_refused, tell, with_share
from services.cloud.store import Transaction


def begin_warmup(
    transaction: Transaction,
    run: Run,
    members: Sequence[Member],
    edges: Mapping[str, str],
    planning: Planning | None,
    now: float,
) -> None:
    """Give the clients their edges for the time being; no event tells of them but those of a plan."""
    spec = RunSpec.from_yaml(run.spec)
    for member in members:
        if member.node_id in edges and not _is_refused(planning, member):
            transaction.put(_given(spec, member, edges[member.node_id], _share(planning, member)))
    _tell(transaction, run, planning, now)
    transaction.put(Clustering(run_id=run.run_id, began_unix_s=now))


def settle_by_latency(
    transaction: Transaction,
    run: Run,
    members: Sequence[Member],
    edges: Mapping[str, str],
    planning: Planning | None,
    now: float,
) -> None:
    """Give the clients their edges, with the events."""
    spec = RunSpec.from_yaml(run.spec)
    for member in members:
        if member.node_id in edges and not _is_refused(planning, member):
            edge_id = edges[member.node_id]
            latency_ms = next(link.latency_ms for link in member.links if link.edge_id == edge_id)
            detail = f"{latency_ms:.3g} ms, the least sum of latencies that the edges' room allows"
            give(transaction, spec, member, edge_id, detail, now, _share(planning, member))
    _tell(transaction, run, planning, now)
    if spec.privacy.shares_key:
        ask_first(transaction, run.run_id, edges)


def settle(
    transaction: Transaction,
    run: Run,
    members: Sequence[Member],
    decision: Decision,
    planning: Planning | None,
    now: float,
) -> None:
    """Give the clients their clusters, trust and edges, with the events."""
    spec, clients = RunSpec.from_yaml(run.spec), {member.node_id: member for member in members}
    began = transaction.all(Clustering, run_id=run.run_id)[0]
    made = replace(
        began,
        version=run.version or 0,
        clusters=decision.clusters,
        medoids=decision.medoids,
        detail=decision.detail,
    )
    transaction.put(made)
    places = [place for place in decision.places if not _is_refused(planning, clients[place.client_id])]
    for place in places:
        client = clients[place.client_id]
        transaction.put(_standing(run, place))
        give(transaction, spec, client, place.edge_id, place.detail, now, _share(planning, client))
    _tell(transaction, run, planning, now)
    transaction.append(run.run_id, clustered(made, places), now)


def clustered(made: Clustering, places: Sequence[Place]) -> Clustered:
    """A decision as an event."""
    return Clustered(version=made.version or 0, detail=made.detail, clusters=made.clusters, places=tuple(places))


def current(transaction: Transaction, run_id: str) -> Clustered | None:
    """Who learns with whom as it stands, late clients included; None before the run has clustered."""
    made = transaction.get(Clustering, run_id=run_id)
    if made is None or made.version is None:
        return None
    standings = {kept.client_id: kept for kept in transaction.all(Standing, run_id=run_id)}
    clients = transaction.all(Member, run_id=run_id, role=Role.CLIENT)
    there = [(client, standings[client.node_id]) for client in clients if client.node_id in standings]
    return clustered(made, [_now(client, standing) for client, standing in there if client.edge_id])


def _now(client: Member, standing: Standing) -> Place:
    return Place(
        client_id=client.node_id,
        cluster=standing.cluster,
        edge_id=client.edge_id or "",
        trust=standing.trust,
        latency_ms=next(link.latency_ms for link in client.links if link.edge_id == client.edge_id),
        parts=standing.parts,
        set_aside=standing.set_aside,
        detail=standing.detail,
    )


def _standing(run: Run, place: Place) -> Standing:
    return Standing(
        run_id=run.run_id,
        client_id=place.client_id,
        cluster=place.cluster,
        trust=place.trust,
        told=place.trust,
        parts=place.parts,
        detail=place.detail,
    )


def give(
    transaction: Transaction,
    spec: RunSpec,
    client: Member,
    edge_id: str,
    detail: str,
    now: float,
    share: Share | None = None,
) -> None:
    """Assign a client to an edge, with its event; it carries `share` there, without one what it has."""
    given = _given(spec, client, edge_id, share)
    transaction.put(given)
    bottom, top = map(int, (given.split or "").split("/"))
    event = ClientAssigned(client_id=given.node_id, edge_id=edge_id, bottom=bottom, top=top, detail=detail)
    transaction.append(given.run_id, event, now)


def _given(spec: RunSpec, client: Member, edge_id: str, share: Share | None) -> Member:
    if share is not None or client.local_steps:
        return replace(with_share(client, share), edge_id=edge_id)
    cut = spec.splits.get(client.node_id, spec.split)
    return replace(client, edge_id=edge_id, split=f"{cut.bottom}/{cut.top}")


def _share(planning: Planning | None, client: Member) -> Share | None:
    return planning.shares[client.node_id] if planning else None


def _is_refused(planning: Planning | None, client: Member) -> bool:
    return planning is not None and client.node_id not in planning.shares


def _tell(transaction: Transaction, run: Run, planning: Planning | None, now: float) -> None:
    """The events of a plan that is the first at these edges, and of those that it has no place for."""
    if planning is not None:
        leave_out_refused(transaction, run, planning, now)
        tell(transaction, run, planning, list(planning.shares.values()), run.version or 0, now)
