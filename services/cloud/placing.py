"""Which edge each client of a run that clusters learns at, and why: members and groups in, places out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.assignment import Assignment, assign
from elsa.cluster.homes import homes
from elsa.cluster.mixture import mixed
from elsa.cluster.problem import Problem
from elsa.cluster.room import latency_matrix
from elsa.errors import CapacityError
from elsa.spec import RunSpec
from services.cloud.clustering import Groups, grouped, neutral
from services.cloud.events import Place
from services.cloud.keys import works
from services.cloud.records import Answer, Fingerprint, Member, Role, Standing

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Who learns with whom and at which edge."""

    places: tuple[Place, ...]
    """Of every client that takes part, in order of their names."""
    clusters: int
    medoids: tuple[str, ...]
    detail: str
    """How it was decided, and what was fallen back to, on one line."""


def decided(
    spec: RunSpec,
    members: Sequence[Member],
    fingerprints: Sequence[Fingerprint],
    standings: Mapping[str, Standing] | None = None,
) -> Decision:
    """The clusters, trust and edges of a run's clients; what others sent is not looked at.

    Args:
        standings: how clients stood before, where it is decided anew. Who leaves its edge then has to save
            `assignment.move_cost`, and who sent no fingerprint stays with those whom it was with.

    Raises CapacityError if not every client finds an edge, however far, naming one.
    """
    clients = sorted((member for member in members if works(member)), key=lambda member: member.node_id)
    edges = sorted(
        (member for member in members if member.role is Role.EDGE and member.answer is Answer.JOINED),
        key=lambda member: member.node_id,
    )
    names = {client.node_id for client in clients}
    sent = [kept for kept in fingerprints if kept.client_id in names]
    before = standings or {}
    groups = grouped(spec, sent, len(clients), len(edges), before)
    known = {name: kept.trust for name, kept in before.items()} | dict(groups.trust)
    trust = {name: known.get(name, neutral(spec.trust)) for name in names}
    problem = _problem(spec, clients, edges, groups, trust, anew=bool(before))
    assignment, note = _assigned(problem)
    labels = _labels(assignment.edges, groups.labels, {name: kept.cluster for name, kept in before.items()})
    return Decision(
        places=tuple(
            _place(client, assignment.edges[client.node_id], labels, trust[client.node_id], groups)
            for client in clients
        ),
        clusters=max(len(groups.medoids), 1),
        medoids=groups.medoids,
        detail="; ".join(filter(None, [*groups.notes, note])),
    )


def _problem(
    spec: RunSpec,
    clients: Sequence[Member],
    edges: Sequence[Member],
    groups: Groups,
    trust: Mapping[str, float],
    *,
    anew: bool,
) -> Problem:
    """What decides: clients without a fingerprint are as far from all edges, and go by latency and trust.

    By latency alone, whatever their `trust`, where there are no groups at all. Where it is decided `anew`, clusters
    and clients stay where they stand unless a move saves what it costs.
    """
    ids, names = tuple(client.node_id for client in clients), tuple(edge.node_id for edge in edges)
    latencies = latency_matrix(
        {client.node_id: {link.edge_id: link.latency_ms for link in client.links} for client in clients}, ids, names
    )
    room, weights = np.array([edge.room for edge in edges], int), spec.assignment
    stood = {client.node_id: client.edge_id for client in clients if anew and client.edge_id}
    distance = None
    if groups.medoids:
        columns = {client: names.index(edge) for client, edge in stood.items() if edge in names}
        near = _balanced if spec.clustering.edges == "balanced" else _similar
        distance = near(groups, ids, latencies, np.minimum(room, len(ids)), columns, weights.move_cost)
    return Problem(
        ids=ids,
        edges=names,
        capacities=room,
        latencies_ms=latencies,
        latency_bound_ms=weights.latency_bound_ms,
        distance=distance,
        trust=np.array([trust[client] if groups.medoids else 1.0 for client in ids]),
        alpha=weights.alpha,
        beta=weights.beta,
        gamma=weights.gamma,
        previous=stood,
        move_cost=weights.move_cost if anew else 0.0,
    )


def _similar(
    groups: Groups,
    ids: tuple[str, ...],
    latencies: Array,
    room: NDArray[np.int_],
    stood: Mapping[str, int],
    move_cost: float,
) -> Array:
    """(clients, edges): how far each client is from the nearest of the clusters that are at home at an edge.

    A cluster is at home where its clients are near, and where they stand: those who would move cost `move_cost`.
    """
    label = np.array([groups.labels.get(client, -1) for client in ids])
    sizes = np.array([np.count_nonzero(label == cluster) for cluster in range(len(groups.medoids))])
    longest = latencies.max(initial=0.0, where=np.isfinite(latencies)) or 1.0
    price = np.where(np.isfinite(latencies), latencies / longest, 1e3)
    for row, client in enumerate(ids):
        if client in stood:
            price[row] += move_cost * (np.arange(price.shape[1]) != stood[client])
    costs = np.stack([price[label == cluster].mean(axis=0) for cluster in range(len(sizes))])
    at_home = homes(sizes, costs, room)
    result = np.zeros(latencies.shape)
    for row, client in enumerate(ids):
        if client in groups.distance:
            result[row] = np.where(at_home.T, groups.distance[client], math.inf).min(axis=1)
    return result


def _balanced(
    groups: Groups,
    ids: tuple[str, ...],
    latencies: Array,
    room: NDArray[np.int_],
    stood: Mapping[str, int],
    move_cost: float,
) -> Array:
    """(clients, edges): 0 at the edge whose mixture a client is dealt to, 1 median elsewhere."""
    dealt = mixed(groups.labels, latencies.shape[1], room.tolist(), stood)
    result = np.zeros(latencies.shape)
    for row, client in enumerate(ids):
        if client in dealt:
            result[row] = np.arange(latencies.shape[1]) != dealt[client]
    return result


def _assigned(problem: Problem) -> tuple[Assignment, str]:
    """The assignment and what was fallen back to: a latency bound that cannot be held ends no run."""
    try:
        return assign(problem), ""
    except CapacityError as error:
        fault = str(error)
    reached = (problem.latencies_ms <= problem.bounds_ms[:, None]) & (problem.room > 0)
    bounds = np.where(reached.any(axis=1), problem.bounds_ms, math.inf)
    beyond = int(np.count_nonzero(~np.isfinite(bounds)))
    try:
        assignment = assign(replace(problem, latency_bound_ms=bounds))
    except CapacityError as error:
        return assign(replace(problem, latency_bound_ms=math.inf)), f"no latency bound is held, since {error}"
    return assignment, f"the latency bound is not held for {beyond} clients, since {fault}"


def _labels(edges: Mapping[str, str], labels: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """The cluster of each client; one without a fingerprint is counted to the commonest of those it was with.

    Those are the clients of its cluster before, else the clients at its edge.
    """
    at_edge: dict[str, Counter[int]] = {}
    of_old: dict[int, Counter[int]] = {}
    for client in sorted(labels):
        at_edge.setdefault(edges[client], Counter())[labels[client]] += 1
        if client in before:
            of_old.setdefault(before[client], Counter())[labels[client]] += 1
    overall = Counter(labels.values())
    return {
        client: labels[client]
        if client in labels
        else _commonest(of_old.get(before.get(client, -1)) or at_edge.get(edge) or overall)
        for client, edge in edges.items()
    }


def _commonest(counted: Counter[int]) -> int:
    """The one counted most often, of equals the smallest; 0 where nothing was counted."""
    return min(counted, key=lambda label: (-counted[label], label), default=0)


def _place(client: Member, edge_id: str, labels: Mapping[str, int], trust: float, groups: Groups) -> Place:
    name = client.node_id
    latency_ms = next(link.latency_ms for link in client.links if link.edge_id == edge_id)
    return Place(
        client_id=name,
        cluster=labels[name],
        edge_id=edge_id,
        trust=trust,
        latency_ms=latency_ms,
        parts=groups.parts.get(name),
        detail=_why(groups, name, labels[name], latency_ms, trust),
    )


def _why(groups: Groups, name: str, cluster: int, latency_ms: float, trust: float) -> str:
    figures = f"{latency_ms:.3g} ms, trust {trust:.2f}"
    if name not in groups.distance:
        return f"no fingerprint to compare, counted to cluster {cluster}, {figures}"
    return f"cluster {cluster}, {groups.distance[name][cluster]:.2f} median divergences from its middle, {figures}"
