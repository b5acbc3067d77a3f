"""What an edge tells the cloud of a global round, gathered over its edge rounds, and is told of its clients."""

from elsa.aggregate.fedavg import fedavg
from elsa.errors import MalformedError
from elsa.v1 import adapter_pb2, fleet_pb2
from services.edge.own_trunks import Adapter
from services.edge.parts import Closed, Part, Standing


class Delivery:
    """What each cluster's clients have made of a version up to now."""

    def __init__(self) -> None:
        self.adapters: dict[int, Adapter] = {}
        """By cluster, the newest; a cluster none of whose clients delivered is not in it."""
        self.rows: dict[int, int] = {}
        self.reports: dict[int, list[adapter_pb2.ClientReport]] = {}

    def add(self, closed: Closed) -> None:
        """Take the next edge round."""
        for cluster, part in closed.parts.items():
            self.adapters[cluster] = part.adapter
            self.rows[cluster] = part.rows
            self.reports.setdefault(cluster, []).extend(_reports(part))


def mean_of(closed: Closed, before: Adapter) -> Adapter:
    """The mean of what all clusters made in an edge round, by rows; `before` where nobody delivered."""
    parts = {str(cluster): (float(part.rows), part.adapter) for cluster, part in closed.parts.items()}
    return fedavg(parts) if parts else before


def _reports(part: Part) -> list[adapter_pb2.ClientReport]:
    """The clients' reports as the cloud is told them, each with how far its adapter moved."""
    messages = []
    for report in part.reports:
        message = adapter_pb2.ClientReport.FromString(report.message)
        message.moved[:] = part.moved.get(report.client, ())
        messages.append(message)
    return messages


def standings_of(assignment: fleet_pb2.Assignment) -> dict[str, Standing]:
    """How each client counts; empty where the cloud says nothing of it.

    Raises MalformedError for standings that are not one a client, or trust that is not within 0 to 1.
    """
    clients, standings = assignment.client_ids, assignment.standings
    if standings and len(standings) != len(clients):
        raise MalformedError(
            f"assignment.standings: {len(standings)} for {len(clients)} clients; it needs one for each"
        )
    if odd := [standing.trust for standing in standings if not 0 <= standing.trust <= 1]:
        raise MalformedError(f"assignment.standings.trust: {odd[0]}; it must be within 0 to 1")
    return {
        client: Standing(cluster=standing.cluster, trust=standing.trust)
        for client, standing in zip(clients, standings, strict=False)
    }
