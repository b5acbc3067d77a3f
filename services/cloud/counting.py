"""Whose rows an edge's update counts for: its own clients', each once in a version, whatever it claims.

Called as an update is written down. A client is the edge's at which it works by then, not where it was when the
version began: one that moved is trained again elsewhere, and would count twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from elsa.errors import StaleRoundError
from services.cloud.records import Member
from services.cloud.round_records import ClientReport, Update


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What counts of what an edge says of its clients."""

    rows: int
    reports: tuple[ClientReport, ...]
    moved: Mapping[str, tuple[float, ...]] = field(repr=False)


def counted(
    edge_id: str,
    rows: int,
    reports: Sequence[ClientReport],
    moved: Mapping[str, tuple[float, ...]],
    members: Sequence[Member],
    others: Sequence[Update],
) -> Counted:
    """Of an update that claims `rows`, at least 1 row and at most what its clients offered together.

    Its clients are those that it reports, else all of the edge's; nobody who is in `others`, the updates of the
    same version that hold: other edges' and the other parts of its delivery.
    """
    offered = {member.node_id: member.train_rows for member in members if member.edge_id == edge_id}
    elsewhere = {report.client_id for update in others for report in update.reports}
    free = {client: most for client, most in offered.items() if client not in elsewhere}
    unnamed = sum(update.rows for update in others if update.edge_id == edge_id and not update.reports)
    told = {report.client_id for report in reports} or set(free)
    most = min(sum(offer for client, offer in free.items() if client in told), sum(free.values()) - unnamed)
    return Counted(
        rows=max(min(rows, most), 1),
        reports=tuple(
            replace(report, rows=min(report.rows, free[report.client_id]))
            for report in reports
            if report.client_id in free
        ),
        moved={client: values for client, values in moved.items() if client in free},
    )


def check_own(edge_id: str, reports: Sequence[ClientReport], members: Sequence[Member]) -> None:
    """Raise StaleRoundError if all clients of an update work elsewhere by now: it would count for nobody."""
    told = {report.client_id for report in reports}
    homes = {member.node_id: member.edge_id for member in members if member.node_id in told}
    if homes and all(home not in (None, edge_id) for home in homes.values()):
        raise StaleRoundError(
            f"{', '.join(sorted(homes)[:8])} trained at {edge_id} and now do elsewhere: the update would count "
            "for nobody; train the clients that are there"
        )
