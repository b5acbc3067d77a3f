"""Notes in the database which members of a run that has begun are not waited for, with an event at each change.

So that a cloud that restarts, to which every node seems just heard, does not have all wait anew for who was gone
before. Edges are told by their assignments (`watch.py`), and wait for nobody who is away in their rounds.
"""

from collections.abc import Iterable, Mapping, Sequence

from services.cloud.absent import SHOWN
from services.cloud.events import AwayMember, PresenceChanged
from services.cloud.keys import works
from services.cloud.leaving import LEAVABLE
from services.cloud.presence import Presence
from services.cloud.records import Answer, Member, Role, Run
from services.cloud.store import Transaction


def note_away(transaction: Transaction, run: Run, members: Sequence[Member], presence: Presence, now: float) -> bool:
    """Bring the notes up to date, with one event for all that changed; whether any did.

    Who is away is so until it is heard again. Of one that leaves the run nothing is noted any more.
    """
    if run.state not in LEAVABLE:
        return False
    known = transaction.away(run.run_id)
    working = [member for member in members if works(member) or _is_edge(member)]
    away = _away(working, known, presence)
    new = {
        name: why
        for name, why in away.items()
        if name not in known or presence.refusal(name) not in ("", known[name])
    }
    ended = known.keys() - away.keys()
    transaction.set_away(run.run_id, new, ended)
    back = ended & {member.node_id for member in working}
    if new or back:
        transaction.append(run.run_id, _event(new, back), now)
    return bool(new or ended)


def _is_edge(member: Member) -> bool:
    return member.role is Role.EDGE and member.answer is Answer.JOINED


def _away(members: Sequence[Member], known: Mapping[str, str], presence: Presence) -> dict[str, str]:
    """Those who are not waited for now, and why."""
    still = {
        member.node_id: known[member.node_id]
        for member in members
        if member.node_id in known and not presence.is_heard(member.node_id)
    }
    return still | presence.gone(members)


def _event(new: Mapping[str, str], back: Iterable[str]) -> PresenceChanged:
    names, returned = sorted(new), sorted(back)
    return PresenceChanged(
        away=len(names),
        first_away=tuple(AwayMember(node_id=name, detail=new[name]) for name in names[:SHOWN]),
        back=len(returned),
        first_back=tuple(returned[:SHOWN]),
    )
