"""The making of a version: the open round that is due closes, and what its updates make is written down.

Arithmetic and files go to threads; what they made is written only if the run is still as it was.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from elsa.errors import NotFoundError
from elsa.spec import RunSpec
from services.cloud.closing import close
from services.cloud.deadlines import changed, cut_by, open_round
from services.cloud.enrolment import Verdict
from services.cloud.keeper import Keeper
from services.cloud.leaving import nobody_left
from services.cloud.lifecycle import RunState
from services.cloud.merging import Merged, merged
from services.cloud.planner import Planner
from services.cloud.planning import Replanned
from services.cloud.presence import Presence
from services.cloud.records import Clustering, Fingerprint, Member, Run, Standing
from services.cloud.renewing import Renewal, decided_anew, renew
from services.cloud.round_records import Round, Update
from services.cloud.rounds import closing, is_quorate, working_edges
from services.cloud.sharing import share_anew
from services.cloud.store import Store, Transaction


@dataclass(frozen=True, kw_only=True)
class Due:
    """A round that is to close, and what came in it."""

    run: Run
    spec: RunSpec
    members: list[Member]
    edges: tuple[str, ...]
    """Those that were waited for."""
    opened: Round
    begun: str
    """The digest of the version that it began from."""
    updates: list[Update]
    clustered: bool


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the updates of a round make, and what holds from its version on."""

    merged: Merged
    renewal: Renewal | None
    replanned: Replanned | None
    files: dict[str, bytes] = field(repr=False)
    """By digest."""


class Versions:
    """Makes the versions of runs, each in one transaction."""

    def __init__(self, store: Store, keeper: Keeper, planner: Planner, presence: Presence) -> None:
        self._store, self._keeper, self._planner, self._presence = store, keeper, planner, presence

    async def make(self, run: Run, spec: RunSpec, members: list[Member], now: float) -> bool:
        """Close the open round if it is due; where another update comes meanwhile, it is merged in the next step.

        Returns whether there was anything to do. A run in whose round nothing came in time has FAILED then.
        """
        with self._store.transaction() as transaction:
            found = self._due(transaction, run, spec, members, now)
            if isinstance(found, Verdict):
                if found.failure:
                    transaction.move(run, RunState.FAILED, now, found.failure)
                return bool(found.failure)
        given = await self._given(found)
        if given is None:
            return True  # an edge began to deliver anew meanwhile
        made = await self._made(found, given)
        async with AsyncExitStack() as held:
            for digest in sorted(made.files):  # in one order, so that nobody waits for another that waits
                await held.enter_async_context(self._keeper.holding(digest))
                await self._keeper.put(made.files[digest])
            with self._store.transaction() as transaction:
                if transaction.run(run.run_id) == run and _updates(transaction, run) == found.updates:
                    self._write(transaction, found, made, now)
        await self._keeper.drop([*made.files, *(update.sha256 for update in found.updates)])
        return True

    def _due(
        self, transaction: Transaction, run: Run, spec: RunSpec, members: list[Member], now: float
    ) -> Due | Verdict:
        """The open round if it closes; else a verdict to wait, or to fail."""
        edges = working_edges(members)
        if not edges:
            return Verdict(failure=nobody_left(members))
        opened = transaction.all(Round, run_id=run.run_id, version=(run.version or 0) + 1)[0]
        updates = _updates(transaction, run)
        open_s = self._presence.age(opened.opened_unix_s, now)
        verdict = closing(spec.rounds, opened.version, edges, updates, open_s, opened.deadline_s)
        if not verdict.go:
            return verdict
        begun = transaction.all(Round, run_id=run.run_id, version=opened.version - 1)[0]
        return Due(
            run=run,
            spec=spec,
            members=members,
            edges=edges,
            opened=opened,
            begun=begun.sha256 or "",
            updates=updates,
            clustered=transaction.get(Clustering, run_id=run.run_id) is not None,
        )

    async def _given(self, due: Due) -> list[tuple[Update, bytes]] | None:
        """The updates with their bytes; None where they are no more those of the round."""
        try:
            return [(update, await self._keeper.get(update.sha256)) for update in due.updates]
        except NotFoundError:
            with self._store.transaction() as transaction:
                if _updates(transaction, due.run) == due.updates:
                    raise
            return None

    async def _made(self, due: Due, given: list[tuple[Update, bytes]]) -> Made:
        evens_out = due.spec.training.steps == "proportional"
        before = await self._keeper.get(due.begun) if evens_out else None
        made = await asyncio.to_thread(merged, given, before)
        renewal = await self._renewal(due)
        return Made(
            merged=made,
            renewal=renewal,
            replanned=await self._planner.again(due.run, due.members, due.updates, renewal),
            files={file.sha256: file.data for file in (made.whole, *made.clusters.values())},
        )

    async def _renewal(self, due: Due) -> Renewal | None:
        """Who learns with whom from the version on, where the specification wants that decided anew then."""
        run, version = due.run, due.opened.version
        if not due.clustered or not due.spec.clustering.renews(version, run.rounds):
            return None
        with self._store.transaction() as transaction:
            sent = transaction.all(Fingerprint, run_id=run.run_id, version=version)
            standings = transaction.all(Standing, run_id=run.run_id)
        there, gone = self._presence.reachable(due.members), self._presence.gone(due.members)
        return await asyncio.to_thread(decided_anew, due.spec, there, sent, standings, gone)

    def _write(self, transaction: Transaction, due: Due, made: Made, now: float) -> None:
        """Make the version the newest, with what holds from it on, and open the next round if there is one."""
        run, closed = due.run, self._closed(due, made.merged, now)
        members = transaction.all(Member, run_id=run.run_id)  # somebody may have left meanwhile
        silent = self._presence.silent(members)
        close(transaction, run, closed, made.merged, due.updates, due.edges, members, silent, now)
        if made.renewal is not None:
            renew(transaction, run, made.renewal, closed.version, now)
        if made.replanned is not None:
            share_anew(transaction, run, made.replanned, closed.version, now)
        if closed.version < run.rounds:
            anew = changed(due.members, transaction.all(Member, run_id=run.run_id))
            open_round(transaction, run, closed.version + 1, now, anew=anew)

    def _closed(self, due: Due, made: Merged, now: float) -> Round:
        """The round as it is kept."""
        opened, rounds = due.opened, due.spec.rounds
        if not is_quorate(rounds, due.edges, due.updates) or any(update.cut_short for update in due.updates):
            opened = cut_by(rounds, opened, due.members, due.updates, self._presence.gone(due.members))
        return replace(
            opened,
            cut=opened.cut or self._presence.begin_unix_s > opened.opened_unix_s,
            closed_unix_s=now,
            sha256=made.whole.sha256,
            total_bytes=len(made.whole.data),
            edge_ids=tuple(sorted({update.edge_id for update in due.updates})),
        )


def _updates(transaction: Transaction, run: Run) -> list[Update]:
    """What came in the open round."""
    return transaction.all(Update, run_id=run.run_id, version=run.version)
