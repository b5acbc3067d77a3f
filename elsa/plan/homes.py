"""An edge for each client that has none yet, by latency alone: for plans of fleets that nobody has assigned."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from elsa.cluster.assignment import assign
from elsa.cluster.problem import Problem as Assigning
from elsa.cluster.room import left_over
from elsa.plan.admission import edge_fault, own_fault
from elsa.plan.memory import client_needs, edge_needs
from elsa.plan.problem import Problem, Refusal
from elsa.plan.profile import ClientProfile


def with_homes(problem: Problem) -> Problem:
    """The same problem in which each client has an edge: the lowest sum of latencies that the edges' room allows.

    Clients that have an edge keep it. Those that could train at none, and those that find no room while as many as
    can do, are among the faults instead of the clients. Room is what an edge has sessions and memory for, a trunk of
    one block each.
    """
    unable = {client.name: fault for client in problem.clients if (fault := _fault(problem, client))}
    settled = Counter(home for name, home in problem.homes.items() if name not in unable)
    room = {edge: most - settled[edge] for edge, most in _sessions(problem).items()}
    seeking = [one for one in problem.clients if one.name not in problem.homes]
    latencies = {
        one.name: {edge: link.latency_ms for edge, link in one.links.items()}
        for one in seeking
        if one.name not in unable
    }
    left = left_over(latencies, room)
    found = assign(Assigning.by_latency({name: own for name, own in latencies.items() if name not in left}, room))
    reasons = {**left, **{one.name: unable[one.name] for one in seeking if one.name in unable}}
    return replace(
        problem,
        clients=tuple(one for one in problem.clients if one.name not in reasons),
        homes={**problem.homes, **found.edges},
        faults=(*problem.faults, *(Refusal(name=name, role="client", reason=why) for name, why in reasons.items())),
    )


def _fault(problem: Problem, client: ClientProfile) -> str | None:
    """Why a client can train nowhere; one without links is for who looks for room to tell."""
    least = client_needs(problem.model, problem.workload).of(problem.min_bottom, problem.min_top).total
    return next((own_fault(problem, least, client, edge) for edge in client.links), None)


def _sessions(problem: Problem) -> Mapping[str, int]:
    """How many clients each edge has sessions and memory for."""
    held = problem.most_trunk
    needs = edge_needs(problem.model, problem.workload, held)
    one = needs.session.total + needs.session_block.total
    return {
        edge.name: 0
        if edge_fault(edge, needs, held)
        else min(edge.capacity, (edge.memory_bytes - needs.base.total) // max(one, 1))
        for edge in problem.edges
    }
