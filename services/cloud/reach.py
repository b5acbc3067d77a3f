"""Which edges a run's clients reach, and the nearest of them with room for each."""

from collections.abc import Sequence

from elsa.cluster.assignment import assign
from elsa.cluster.problem import Problem
from elsa.cluster.room import check_room
from elsa.errors import CapacityError
from elsa.spec import RunSpec
from services.cloud.records import Answer, Member, Role


def room_fault(members: Sequence[Member]) -> str:
    """Why not every client that joined finds an edge, empty if each does."""
    try:
        check_room(*_latencies_and_rooms(members))
    except CapacityError as error:
        return str(error)
    return ""


def nearest(members: Sequence[Member]) -> dict[str, str]:
    """The edge of each client that joined, with the least sum of latencies. Raises CapacityError as `assign`."""
    return assign(Problem.by_latency(*_latencies_and_rooms(members))).edges


def provisional(spec: RunSpec, members: Sequence[Member]) -> dict[str, str] | None:
    """The edge at which each client warms up; None in a run that does not cluster, which has no warm-up."""
    return nearest(members) if spec.groups_clients(len(joined_edges(members))) else None


def joined_edges(members: Sequence[Member]) -> list[str]:
    """The edges that take part."""
    return [member.node_id for member in members if member.role is Role.EDGE and member.answer is Answer.JOINED]


def _latencies_and_rooms(members: Sequence[Member]) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """What an assignment is made of: the links of the clients that joined, the room of the edges that joined."""
    joined = [member for member in members if member.answer is Answer.JOINED]
    clients = [member for member in joined if member.role is Role.CLIENT]
    latencies = {client.node_id: {link.edge_id: link.latency_ms for link in client.links} for client in clients}
    return latencies, {member.node_id: member.room for member in joined if member.role is Role.EDGE}
