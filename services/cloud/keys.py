"""The key that a run's clients share: who is asked to make it, who has none yet, what was wrapped for whom.

One client is asked, the first by name; if it leaves or falls silent before it has made one, the next is, and whoever
delivers first has made it. The cloud hands on what is wrapped and cannot open it (elsa/privacy/keys.py). All of it is
in the database, so that a cloud that restarts goes on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from services.cloud.leaving import leave
from services.cloud.offers import Refusal
from services.cloud.records import Answer, KeyHolder, KeyMaking, Member, Role, Run, WrappedKey
from services.cloud.store import Transaction

MOST_WANTING = 1024
"""How many keys are asked for, and taken, at a time."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """V of SS-OP: float32, little-endian, (rows, width)."""

    width: int
    data: bytes

    @property
    def rows(self) -> int:
        """Its rank."""
        return len(self.data) // (4 * self.width)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What a client is told of the run's key."""

    makes: bool = False
    wanting: tuple[KeyHolder, ...] = ()
    wrapped: WrappedKey | None = None
    basis: Basis | None = None


def exchange_of(transaction: Transaction, run: Run, client_id: str) -> Exchange | None:
    """What a client is told of the key of a run that trains; None where none is shared."""
    making = transaction.get(KeyMaking, run_id=run.run_id)
    if making is None:
        return None
    if making.maker_id == client_id:
        wanting = transaction.without_key(run.run_id, client_id, MOST_WANTING)
        return Exchange(makes=True, wanting=tuple(wanting))
    wrapped = transaction.get(WrappedKey, run_id=run.run_id, client_id=client_id)
    if making.basis is None or wrapped is None:
        return Exchange()
    return Exchange(wrapped=wrapped, basis=Basis(width=making.width, data=making.basis))


def ask_first(transaction: Transaction, run_id: str, client_ids: Collection[str]) -> None:
    """Have the first of a run's clients make its key."""
    transaction.put(KeyMaking(run_id=run_id, maker_id=min(client_ids)))


def look_after(
    transaction: Transaction, run: Run, members: Sequence[Member], gone: Collection[str], now: float
) -> bool:
    """Do what follows when the client that makes the key has left or is gone; whether anything did.

    Before there is a key, the next client is asked. Later, those that it has not wrapped the key for leave the run:
    nobody else hands it on, so that there is never a second key.
    """
    making = transaction.get(KeyMaking, run_id=run.run_id)
    there = {member.node_id: member for member in members if works(member)}
    if making is None or making.maker_id in there.keys() - set(gone):
        return False
    if making.basis is None:
        maker = min(there.keys() - set(gone), default=None)
        if maker is not None:
            transaction.put(replace(making, maker_id=maker))
        return maker is not None
    without = transaction.without_key(run.run_id, making.maker_id, len(there))
    reason = f"{making.maker_id}, which made the run's key, was gone before it had wrapped it for this client"
    for holder in without:
        leave(transaction, there[holder.client_id], Refusal(reason=reason), now)
    return bool(without)


def works(member: Member) -> bool:
    """Whether a member is a client that has its edge."""
    return member.role is Role.CLIENT and member.answer is Answer.JOINED and member.edge_id is not None
