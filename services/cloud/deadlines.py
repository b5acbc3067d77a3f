"""How long a round may stay open: as the specification says, or less where recent rounds took much less.

`closing` in `rounds.py` goes by what is decided here as a round opens. A shorter deadline spares the others a wait
for who has stopped; it must not shut out who is slow. So it is told from rounds alone whose clients stood and carried
as they do now, the round after one that cut somebody off has the whole deadline, and without half of the edges none
closes before that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median

from elsa.spec import RoundsSpec, RunSpec
from services.cloud.events import RoundOpened
from services.cloud.keys import works
from services.cloud.records import Member, Role, Run
from services.cloud.round_records import Round, Update
from services.cloud.rounds import delivered
from services.cloud.store import Transaction

RECENT, FEWEST = 5, 3
"""Rounds that a deadline is told from, at most and at least."""
SPREADS = 3.0
"""Median absolute deviations that a round may take beyond the median."""
FLOOR = 1.5
"""Times the median, below which no deadline falls."""
LEAST_S = 30.0
"""Below which none falls either: seconds in which a machine or a network may pause without being slow."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """How long a round may stay open, and why."""

    seconds: float
    why: str


def open_round(transaction: Transaction, run: Run, version: int, now: float, *, anew: bool = False) -> None:
    """Open the round that makes `version`, with its event.

    `anew`: somebody trains elsewhere or carries something else than in the round before.
    """
    spec = RunSpec.from_yaml(run.spec).rounds
    closed = [kept for kept in transaction.all(Round, run_id=run.run_id) if 0 < kept.version < version]
    deadline = deadline_of(spec, closed, anew=anew)
    opened = Round(run_id=run.run_id, version=version, opened_unix_s=now, deadline_s=deadline.seconds, anew=anew)
    transaction.put(opened)
    _tell(transaction, opened, deadline, now)


def give_whole_deadline(transaction: Transaction, run: Run, now: float) -> None:
    """Let the open round, if there is one, last as long as the specification says: clients moved within it."""
    opened = transaction.get(Round, run_id=run.run_id, version=(run.version or 0) + 1)
    if opened is None or opened.sha256 is not None:
        return
    deadline = Deadline(seconds=RunSpec.from_yaml(run.spec).rounds.deadline_s, why="clients changed their edge in it")
    transaction.put(replace(opened, deadline_s=deadline.seconds, anew=True, cut=True))
    if opened.deadline_s != deadline.seconds:
        _tell(transaction, opened, deadline, now)


def deadline_of(spec: RoundsSpec, closed: Sequence[Round], *, anew: bool = False) -> Deadline:
    """The deadline of the round after `closed`, the run's closed ones in order without version 0.

    The median of the newest of them plus three median absolute deviations, at least 1.5 medians and 30 seconds, at
    most the specification's. Rounds that a deadline cut or in which the cloud was away are not counted, nor any
    before the newest from which clients train elsewhere or carry something else.
    """
    whole = spec.deadline_s
    if not spec.adaptive:
        return Deadline(seconds=whole, why="as specified")
    if anew:
        return Deadline(
            seconds=whole, why="as specified: clients train elsewhere or carry something else from now on"
        )
    if closed and closed[-1].owed:
        return Deadline(
            seconds=whole, why="as specified: a client that is there missed the last one, which was shorter"
        )
    taken = _recent(closed)
    if len(taken) < FEWEST:
        return Deadline(seconds=whole, why=f"as specified, until {FEWEST} rounds tell what one takes")
    middle = median(taken)
    spread = median(abs(seconds - middle) for seconds in taken)
    seconds = max(middle + SPREADS * spread, FLOOR * middle, LEAST_S)
    told = f"{len(taken)} recent rounds took {middle:.3g} s in the middle, {spread:.3g} s apart from it"
    if seconds >= whole:
        return Deadline(seconds=whole, why=f"as specified: {told}")
    return Deadline(seconds=seconds, why=told)


def cut_by(
    spec: RoundsSpec, opened: Round, members: Sequence[Member], updates: Sequence[Update], gone: Collection[str]
) -> Round:
    """A round that closes without its quorum, or whose edges had none: its seconds are not counted.

    Where its deadline was shorter than the specification's, the next one is owed to those who missed it and are not
    `gone`.
    """
    shorter = opened.deadline_s < spec.deadline_s
    return replace(opened, cut=True, owed=shorter and _missed(members, updates, gone))


def changed(before: Sequence[Member], after: Sequence[Member]) -> bool:
    """Whether a client that works trains elsewhere, or carries something else, than it did or is new."""
    stood = {member.node_id: _carries(member) for member in before}
    return any(works(member) and stood.get(member.node_id) != _carries(member) for member in after)


def _carries(member: Member) -> tuple[str | None, str | None, int]:
    return member.edge_id, member.split, member.local_steps


def _recent(closed: Sequence[Round]) -> list[float]:
    """Seconds of the newest rounds that are alike and that nothing cut."""
    found: list[float] = []
    for kept in reversed(closed):
        if not kept.cut and kept.closed_unix_s is not None:
            found.append(kept.closed_unix_s - kept.opened_unix_s)
        if kept.anew or len(found) == RECENT:
            break
    return found


def _missed(members: Sequence[Member], updates: Sequence[Update], gone: Collection[str]) -> bool:
    """Whether a client that is not gone, at an edge that is not, was left out of a round or of a part of it."""
    whole = set(delivered(updates))
    short = {update.edge_id for update in updates if update.cut_short}
    told = {report.client_id for update in updates for report in update.reports}
    there = [
        member for member in members if member.role is Role.CLIENT and works(member) and member.node_id not in gone
    ]
    if any(client.edge_id not in whole | set(gone) for client in there):
        return True
    left = [member.node_id for member in members if works(member) and member.edge_id in short]
    silent = [client for client in left if client not in told]
    return bool(short) and (not silent or any(client not in gone for client in silent))


def _tell(transaction: Transaction, opened: Round, deadline: Deadline, now: float) -> None:
    event = RoundOpened(version=opened.version, deadline_s=deadline.seconds, detail=deadline.why)
    transaction.append(opened.run_id, event, now)
