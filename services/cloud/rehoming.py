"""Gives the clients of an edge that left its run, or that is not waited for, to the edges that are still there.

A client that finds none is left out with the reason. Where there is no other edge the clients of a silent one wait
for it until the round's deadline, as those of a run with one edge must. An edge that delivered before it was lost
keeps its clients until that round closes: trained again elsewhere, their rows would count twice in it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from elsa.cluster.assignment import assign
from elsa.cluster.problem import Problem
from elsa.cluster.room import left_over
from elsa.spec import RunSpec
from services.cloud.deadlines import give_whole_deadline
from services.cloud.keys import works
from services.cloud.leaving import LEAVABLE, leave_out
from services.cloud.records import Answer, Member, Role, Run
from services.cloud.round_records import Update
from services.cloud.rounds import delivered
from services.cloud.settling import give
from services.cloud.store import Transaction


def rehome(
    transaction: Transaction,
    run: Run,
    members: Sequence[Member],
    gone: Mapping[str, str],
    is_alive: Callable[[str], bool],
    now: float,
) -> list[str] | None:
    """Move or leave out the clients of lost edges, with the events.

    Args:
        gone: those who are not waited for, and why.
        is_alive: whether a node was heard lately; no client is given to an edge that was not.

    Returns:
        The digests of the updates that this takes back; None where there was nobody to move.
    """
    lost = _lost(members, gone) if run.state in LEAVABLE else {}
    homeless = [member for member in members if works(member) and member.edge_id in lost]
    if not homeless:
        return None
    others = [member for member in members if _joined(member) and member.node_id not in lost]
    there = [edge for edge in others if is_alive(edge.node_id)]
    if others and not there:  # they may be heard again
        return None
    if not others:
        waited_for = {member.node_id for member in members if _joined(member)}
        homeless = [client for client in homeless if client.edge_id not in waited_for]
    homeless, taken_back = _without_delivered(transaction, run, homeless)
    if _move(transaction, run, homeless, _room(members, there), lost, now):
        give_whole_deadline(transaction, run, now)
    return taken_back if homeless else None


def _joined(member: Member) -> bool:
    return member.role is Role.EDGE and member.answer is Answer.JOINED


def _lost(members: Sequence[Member], gone: Mapping[str, str]) -> dict[str, str]:
    """The edges that are lost, with what became of them."""
    lost = {}
    for member in members:
        if member.role is Role.EDGE and member.answer is Answer.REFUSED:
            lost[member.node_id] = f"{member.node_id} left: {member.detail}"
        elif _joined(member) and member.node_id in gone:
            lost[member.node_id] = f"{member.node_id} is gone: {gone[member.node_id]}"
    return lost


def _without_delivered(
    transaction: Transaction, run: Run, homeless: Sequence[Member]
) -> tuple[list[Member], list[str]]:
    """Those whose rows are not in an update of the open round; what came of theirs in part is taken back.

    Returns them, and the digests of what is taken back.
    """
    updates = transaction.all(Update, run_id=run.run_id, version=run.version)
    done = delivered(updates)
    free = [client for client in homeless if client.edge_id not in done]
    edges = {client.edge_id for client in free}
    taken_back = [update for update in updates if update.edge_id in edges]
    for update in taken_back:
        transaction.delete(update)
    return free, [update.sha256 for update in taken_back]


def _room(members: Sequence[Member], edges: Collection[Member]) -> dict[str, int]:
    """How many more clients each of these edges may have."""
    taken = Counter(member.edge_id for member in members if works(member))
    return {edge.node_id: edge.room - taken[edge.node_id] for edge in edges}


def _move(
    transaction: Transaction,
    run: Run,
    homeless: Sequence[Member],
    room: Mapping[str, int],
    lost: Mapping[str, str],
    now: float,
) -> bool:
    """Give as many as can be an edge, with the least sum of latencies; leave out the others. Whether any moved."""
    spec = RunSpec.from_yaml(run.spec)
    latencies = {client.node_id: {link.edge_id: link.latency_ms for link in client.links} for client in homeless}
    left = left_over(latencies, room)
    staying = {client: links for client, links in latencies.items() if client not in left}
    edges = assign(Problem.by_latency(staying, room)).edges
    trunk = "; its trunk starts anew there" if spec.privacy.keeps_trunks else ""
    for client in homeless:
        name, why = client.node_id, lost[client.edge_id or ""]
        if name in left:
            leave_out(transaction, client, f"its edge {why}; {left[name]}", now)
        else:
            detail = f"{why}; {latencies[name][edges[name]]:.3g} ms to {edges[name]}{trunk}"
            give(transaction, spec, client, edges[name], detail, now)
    return bool(edges)
