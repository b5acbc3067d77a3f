"""Which clients are not in a version that they might have been in, and why, as far as the cloud knows.

All clients count that were ever given an edge in the run. Nothing is decided here: rounds close as `rounds.py` says.
"""

from collections.abc import Mapping, Sequence

from services.cloud.events import Absent
from services.cloud.keys import works
from services.cloud.records import Answer, Member, Role
from services.cloud.round_records import Evaluation, Update

SHOWN = 20
"""Clients that an event names, so that it stays small in a fleet of 10,000."""
_SAID = 5
"""Clients that a line names."""


def took_part(members: Sequence[Member]) -> list[Member]:
    """The clients that have been given an edge since the run began, those that left it included."""
    return [member for member in members if member.role is Role.CLIENT and member.split is not None]


def absent(members: Sequence[Member], updates: Sequence[Update], silent: Mapping[str, str]) -> list[Absent]:
    """Those who took part and are not in `updates`, all of one version, in order of their names.

    Of an edge that reports nobody, all clients count as in it.

    Args:
        silent: those not heard of lately, and why or for how long.
    """
    told = {report.client_id for update in updates for report in update.reports}
    unsaid = {update.edge_id for update in updates} - {update.edge_id for update in updates if update.reports}
    missing = [client for client in took_part(members) if client.node_id not in told and client.edge_id not in unsaid]
    edges = {update.edge_id: False for update in updates}
    for update in updates:
        edges[update.edge_id] |= update.cut_short
    return [Absent(client_id=client.node_id, detail=_why(client, edges, silent)) for client in missing]


def absent_at_the_end(
    members: Sequence[Member],
    updates: Sequence[Update],
    evaluations: Sequence[Evaluation],
    silent: Mapping[str, str],
    *,
    trained: bool,
    awaited: bool,
) -> list[Absent]:
    """Those who took part and are not in the `updates` of the last version, or did not evaluate that.

    Args:
        trained: whether there was a round at all; version 0 is in no update.
        awaited: whether the evaluations of all were waited for; else only those count who are silent besides.
    """
    found = {each.client_id: each for each in absent(members, updates, silent)} if trained else {}
    evaluated = {evaluation.client_id for evaluation in evaluations}
    for client in took_part(members):
        name = client.node_id
        if name not in found and name not in evaluated and (awaited or name in silent or not works(client)):
            why = _gone(client, silent) or "had not evaluated the last version by the deadline"
            found[name] = Absent(client_id=name, detail=why)
    return [found[name] for name in sorted(found)]


def sentence(missing: Sequence[Absent], clients: int) -> str:
    """How many of so many `clients` did not take part to the end, and the first few of them; empty for none."""
    if not missing:
        return ""
    named = ", ".join(f"{each.client_id} ({each.detail})" for each in missing[:_SAID])
    more = f" and {len(missing) - _SAID} more" if len(missing) > _SAID else ""
    return f"{len(missing)} of {clients} clients did not take part to the end: {named}{more}"


def _why(client: Member, cut_short: Mapping[str, bool], silent: Mapping[str, str]) -> str:
    """Why a client is not in a version.

    Args:
        cut_short: of the edges that are in it, whether a deadline ended an edge round there.
    """
    edge = client.edge_id or ""
    if gone := _gone(client, silent):
        return gone
    if edge in silent:
        return f"its edge {edge}: {silent[edge]}"
    if edge not in cut_short:
        return f"its edge {edge} had not delivered"
    return f"not done by the deadline of {edge}" if cut_short[edge] else f"{edge} went on without it"


def _gone(client: Member, silent: Mapping[str, str]) -> str:
    """Why a client is not there; empty if it is."""
    if not works(client):
        return f"left: {client.detail}" if client.answer is Answer.REFUSED else f"left out: {client.detail}"
    return silent.get(client.node_id, "")
