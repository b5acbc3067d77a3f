"""A member that leaves a run which has begun; `rehoming.py` finds other edges for the clients of one that left."""

from collections.abc import Sequence
from dataclasses import replace

from services.cloud.events import NodeJoined
from services.cloud.lifecycle import RunState
from services.cloud.offers import Refusal, answered
from services.cloud.records import Answer, Member, Role
from services.cloud.store import Transaction

LEAVABLE = frozenset({RunState.WARMUP, RunState.CLUSTERING, RunState.TRAINING})
"""States in which a refusal means that a member leaves."""

_SHOWN = 8


def leave(transaction: Transaction, member: Member, refusal: Refusal, now: float) -> None:
    """Take a member out of its run, with its event.

    Nothing happens to a member that is out already, so that the same refusal may come twice. A client keeps
    its split, which tells that it took part.
    """
    if member.answer is Answer.JOINED:
        _put(transaction, replace(answered(member, refusal), split=member.split), now)


def leave_out(transaction: Transaction, client: Member, why: str, now: float) -> None:
    """Take a client for which there is no edge out of its run, with its event."""
    _put(transaction, replace(client, answer=Answer.LEFT_OUT, edge_id=None, detail=why), now)


def nobody_left(members: Sequence[Member]) -> str:
    """Why no edge has clients any more, on one line: what those said who left, edges first."""
    gone = [member for member in members if member.answer is Answer.REFUSED]
    gone.sort(key=lambda member: (member.role is not Role.EDGE, member.node_id))
    said = [f"{member.node_id} left: {member.detail}" for member in gone[:_SHOWN]]
    more = [f"and {len(gone) - _SHOWN} more"] if len(gone) > _SHOWN else []
    return "; ".join(["no edge with clients is left", *said, *more, "mend what they name and submit the run again"])


def _put(transaction: Transaction, member: Member, now: float) -> None:
    transaction.put(member)
    event = NodeJoined(node_id=member.node_id, detail=member.detail, accepted=False)
    transaction.append(member.run_id, event, now)
