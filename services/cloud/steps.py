"""The steps of a run: from one state or round to the next, each in one transaction.

A step reads the facts, lets `enrolment.py` and `rounds.py` decide, and writes what follows. Arithmetic and files go
to threads; what they made is written only if the run is still as it was.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypeVar

from elsa.errors import CapacityError, NotFoundError
from elsa.spec import RunSpec
from services.cloud.closing import close
from services.cloud.deadlines import changed, cut_by, open_round
from services.cloud.ending import all_evaluated, complete, judge, why_over
from services.cloud.enrolment import Verdict, after_enrolling, after_pending, after_warmup, fits, with_room
from services.cloud.export import Exports
from services.cloud.fleet import Fleet
from services.cloud.keeper import Keeper
from services.cloud.keys import look_after, works
from services.cloud.leaving import nobody_left
from services.cloud.lifecycle import RunState
from services.cloud.merging import merged
from services.cloud.placing import decided
from services.cloud.planner import Planner
from services.cloud.planning import Planning
from services.cloud.reach import joined_edges, nearest, provisional, room_fault
from services.cloud.records import (
    Answer,
    Clustering,
    Fingerprint,
    Member,
    Node,
    Profile,
    Role,
    Round,
    Run,
    Standing,
    Update,
)
from services.cloud.rehoming import rehome
from services.cloud.renewing import Renewal, decided_anew, renew
from services.cloud.rounds import closing, is_quorate, working_edges
from services.cloud.settling import begin_warmup, settle, settle_by_latency
from services.cloud.sharing import share_anew
from services.cloud.store import Store, Transaction

Placed = TypeVar("Placed")


class Steps:
    """Takes steps; a node silent for `gone_after_s` seconds is not waited for: its clients go to other edges.

    Deadlines count from the cloud's start at the earliest: nobody could deliver while it was down.
    """

    def __init__(self, store: Store, keeper: Keeper, fleet: Fleet, exports: Exports, *, gone_after_s: float) -> None:
        self._store, self._keeper, self._fleet, self._exports = store, keeper, fleet, exports
        self._planner = Planner(store)
        self._gone_after_s = gone_after_s

    async def take(self, run_id: str, now: float) -> bool:
        """Take the one step that is due at `now`, unix seconds; False if none was."""
        with self._store.transaction() as transaction:
            run = transaction.run(run_id)
            if run.state is RunState.PENDING:
                return self._pending(transaction, run, now)
            if run.state is RunState.ENROLLING:
                offers = self._offer(transaction, run, self._fitting(transaction, RunSpec.from_yaml(run.spec)))
                if offers:
                    return True
            members = transaction.all(Member, run_id=run_id)
            taken_back = rehome(transaction, run, members, self._gone(members), self._fleet.is_alive, now)
            if taken_back is None:
                if run.state is RunState.WARMUP:
                    return self._warm_up(transaction, run, members, now)
                if run.state is RunState.TRAINING and self._look_after(transaction, run, members, now):
                    return True
            over = why_over(transaction, run) if run.state is RunState.TRAINING else ""
        if taken_back is not None:
            await self._keeper.drop(taken_back)
            return True
        if run.state is RunState.ENROLLING:
            return await self._enrolling(run, members, now)
        if run.state is RunState.CLUSTERING:
            return await self._cluster(run, members, now)
        if run.state is RunState.TRAINING:
            if over:
                return await complete(self._store, self._exports, run, over, now)
            finish = run.version == run.rounds
            return await (self._finish(run, members, now) if finish else self._round(run, members, now))
        return False

    def _look_after(self, transaction: Transaction, run: Run, members: list[Member], now: float) -> bool:
        """See to the keys and the scores of a run that trains; whether anything was due."""
        gone = self._gone(members)
        return look_after(transaction, run, members, gone, now) or judge(
            transaction, run, members, gone, now, self._age
        )

    def _pending(self, transaction: Transaction, run: Run, now: float) -> bool:
        spec = RunSpec.from_yaml(run.spec)
        fitting = self._fitting(transaction, spec)
        verdict = after_pending(spec.fleet, fitting, spec.data.name, self._age(run.created_unix_s, now))
        if not _moved(transaction, run, RunState.ENROLLING, verdict, now):
            return False
        if verdict.go:
            self._offer(transaction, run, fitting)
        return True

    async def _enrolling(self, run: Run, members: list[Member], now: float) -> bool:
        spec = RunSpec.from_yaml(run.spec)
        fleet = spec.fleet
        alive = {member.node_id for member in members if self._fleet.is_alive(member.node_id)}
        waited_s = self._age(run.created_unix_s, now)
        initial = run.version is not None
        verdict = after_enrolling(fleet, members, alive, initial=initial, waited_s=waited_s)
        if verdict.go:
            staying = [member for member in members if member.node_id in alive]
            fault = await asyncio.to_thread(room_fault, staying)
            verdict = with_room(fleet, fault, waited_s=waited_s)
        edges = await asyncio.to_thread(provisional, spec, staying) if verdict.go else None
        planning = await self._planner.first(run, staying, edges) if edges is not None else None
        with self._store.transaction() as transaction:
            if not self._is_as_it_was(transaction, run, members, planning):
                return True
            if verdict.go:
                for member in members:
                    if member.answer is Answer.OFFERED or member.node_id not in alive:
                        transaction.put(replace(member, answer=Answer.LEFT_OUT))
            if edges is None:
                why = f"no clusters: {spec.ungrouped(len(joined_edges(staying)))}" if verdict.go else ""
                return _moved(transaction, run, RunState.CLUSTERING, verdict, now, why)
            begin_warmup(transaction, run, staying, edges, planning, now)
            return _moved(transaction, run, RunState.WARMUP, verdict, now)

    def _warm_up(self, transaction: Transaction, run: Run, members: list[Member], now: float) -> bool:
        clients = [member.node_id for member in members if works(member)]
        clustering = transaction.all(Clustering, run_id=run.run_id)[0]
        verdict = after_warmup(
            RunSpec.from_yaml(run.spec).clustering,
            clients,
            transaction.fingerprinted(run.run_id, 0),
            self._gone(members),
            self._age(clustering.began_unix_s, now),
        )
        verdict = verdict if clients else Verdict(failure=nobody_left(members))
        return _moved(transaction, run, RunState.CLUSTERING, verdict, now)

    def _age(self, begin_unix_s: float, now: float) -> float:
        return now - max(begin_unix_s, self._fleet.begin_unix_s)

    def _is_as_it_was(
        self, transaction: Transaction, run: Run, members: list[Member], planning: Planning | None
    ) -> bool:
        """Whether what was decided of a run, its members and, of a plan, their profiles still holds."""
        if transaction.run(run.run_id) != run or transaction.all(Member, run_id=run.run_id) != members:
            return False
        return planning is None or transaction.all(Profile, run_id=run.run_id) == list(planning.made_from)

    def _gone(self, members: list[Member]) -> dict[str, float]:
        """Those who have been silent for too long to be waited for, and for how many seconds."""
        silent_s = {member.node_id: self._fleet.silent_s(member.node_id) for member in members}
        return {node_id: seconds for node_id, seconds in silent_s.items() if seconds > self._gone_after_s}

    def _reachable(self, members: list[Member]) -> list[Member]:
        """The members but for edges that are gone; all of them where no edge is there."""
        gone = set(self._gone(members))
        there = [member for member in members if member.role is Role.CLIENT or member.node_id not in gone]
        return there if any(member.role is Role.EDGE for member in there) else members

    async def _placed(self, members: list[Member], decide: Callable[[list[Member]], Placed]) -> Placed | None:
        """What `decide` makes of the members that can be reached, of all where those have too little room.

        None where all have, too, and an edge is to be heard again first: `rehoming.py` then sees to its clients.
        Raises CapacityError where nobody is waited for.
        """
        for chosen in (self._reachable(members), members):
            try:
                return await asyncio.to_thread(decide, chosen)
            except CapacityError as error:
                fault = error
        if all(self._fleet.is_alive(edge_id) for edge_id in joined_edges(members)):
            raise fault
        return None

    def _fitting(self, transaction: Transaction, spec: RunSpec) -> list[Node]:
        nodes = transaction.all(Node)
        return [node for node in nodes if fits(node, spec.data.name) and self._fleet.is_alive(node.node_id)]

    def _offer(self, transaction: Transaction, run: Run, nodes: list[Node]) -> bool:
        """Offer a run to those of `nodes` that were not offered it before; whether there were any."""
        offered = {member.node_id for member in transaction.all(Member, run_id=run.run_id)}
        new = [node for node in nodes if node.node_id not in offered]
        for node in new:
            transaction.put(Member(run_id=run.run_id, node_id=node.node_id, role=node.role))
        return bool(new)

    async def _by_latency(self, run: Run, members: list[Member], now: float) -> bool:
        """The edges of a run that does not cluster."""
        edges = await self._placed(members, nearest)
        if edges is None:
            return False
        planning = await self._planner.first(run, members, edges)
        with self._store.transaction() as transaction:
            if self._is_as_it_was(transaction, run, members, planning):
                settle_by_latency(transaction, run, members, edges, planning, now)
                _begin_to_train(transaction, run, now)
        return True

    async def _cluster(self, run: Run, members: list[Member], now: float) -> bool:
        """Decide by the fingerprints, once more if another came meanwhile; without a warm-up by latency."""
        with self._store.transaction() as transaction:
            warmed_up = transaction.get(Clustering, run_id=run.run_id) is not None
            sent = transaction.all(Fingerprint, run_id=run.run_id, version=0)
        if not warmed_up:
            return await self._by_latency(run, members, now)
        spec = RunSpec.from_yaml(run.spec)
        decision = await self._placed(members, lambda chosen: decided(spec, chosen, sent))
        if decision is None:
            return False
        planning = await self._planner.first(
            run, members, {place.client_id: place.edge_id for place in decision.places}
        )
        with self._store.transaction() as transaction:
            known = {kept.client_id for kept in sent}
            as_it_was = self._is_as_it_was(transaction, run, members, planning)
            if as_it_was and transaction.fingerprinted(run.run_id, 0) == known:
                settle(transaction, run, members, decision, planning, now)
                _begin_to_train(transaction, run, now)
        return True

    async def _round(self, run: Run, members: list[Member], now: float) -> bool:
        """Close the open round if it is due; where another update comes meanwhile, it is merged in the next step."""
        spec, edges = RunSpec.from_yaml(run.spec), working_edges(members)
        with self._store.transaction() as transaction:
            if not edges:
                return _moved(transaction, run, RunState.TRAINING, Verdict(failure=nobody_left(members)), now)
            opened = transaction.all(Round, run_id=run.run_id, version=(run.version or 0) + 1)[0]
            begun = transaction.all(Round, run_id=run.run_id, version=opened.version - 1)[0]
            updates = _updates(transaction, run)
            open_s = self._age(opened.opened_unix_s, now)
            verdict = closing(spec.rounds, opened.version, edges, updates, open_s, opened.deadline_s)
            if not verdict.go:
                return _moved(transaction, run, RunState.TRAINING, verdict, now)
            clustered = transaction.get(Clustering, run_id=run.run_id) is not None
        try:
            given = [(update, await self._keeper.get(update.sha256)) for update in updates]
        except NotFoundError:
            if self._are_there(run, updates):
                raise
            return True  # an edge began to deliver anew meanwhile
        before = await self._keeper.get(begun.sha256 or "") if spec.training.steps == "proportional" else None
        made = await asyncio.to_thread(merged, given, before)
        renewal = await self._renewal(run, members, opened.version) if clustered else None
        replanned = await self._planner.again(run, members, updates, renewal)
        if not is_quorate(spec.rounds, edges, updates) or any(update.cut_short for update in updates):
            opened = cut_by(spec.rounds, opened, members, updates, self._gone(members))
        closed = replace(
            opened,
            closed_unix_s=now,
            sha256=made.whole.sha256,
            total_bytes=len(made.whole.data),
            edge_ids=tuple(sorted({update.edge_id for update in updates})),
        )
        files = {file.sha256: file.data for file in (made.whole, *made.clusters.values())}
        async with AsyncExitStack() as held:
            for digest in sorted(files):  # in one order, so that nobody waits for another that waits
                await held.enter_async_context(self._keeper.holding(digest))
                await self._keeper.put(files[digest])
            with self._store.transaction() as transaction:
                if transaction.run(run.run_id) == run and _updates(transaction, run) == updates:
                    close(transaction, run, closed, made, updates, edges, now)
                    if renewal is not None:
                        renew(transaction, run, renewal, closed.version, now)
                    if replanned is not None:
                        share_anew(transaction, run, replanned, closed.version, now)
                    if closed.version < run.rounds:
                        anew = changed(members, transaction.all(Member, run_id=run.run_id))
                        open_round(transaction, run, closed.version + 1, now, anew=anew)
        await self._keeper.drop([*files, *(update.sha256 for update in updates)])
        return True

    def _are_there(self, run: Run, updates: list[Update]) -> bool:
        with self._store.transaction() as transaction:
            return _updates(transaction, run) == updates

    async def _renewal(self, run: Run, members: list[Member], version: int) -> Renewal | None:
        """Who learns with whom from `version` on, where the specification wants that decided anew then."""
        spec = RunSpec.from_yaml(run.spec)
        if not spec.clustering.renews(version, run.rounds):
            return None
        with self._store.transaction() as transaction:
            sent = transaction.all(Fingerprint, run_id=run.run_id, version=version)
            standings = transaction.all(Standing, run_id=run.run_id)
        gone = self._gone(members)
        return await asyncio.to_thread(decided_anew, spec, self._reachable(members), sent, standings, gone)

    async def _finish(self, run: Run, members: list[Member], now: float) -> bool:
        with self._store.transaction() as transaction:
            last = transaction.all(Round, run_id=run.run_id, version=run.version)[0]
            open_s = self._age(last.closed_unix_s or now, now)
            if not all_evaluated(transaction, run, members, self._gone(members), open_s):
                return False
        return await complete(self._store, self._exports, run, "", now)


def _begin_to_train(transaction: Transaction, run: Run, now: float) -> None:
    transaction.move(run, RunState.TRAINING, now)
    open_round(transaction, run, 1, now)


def _updates(transaction: Transaction, run: Run) -> list[Update]:
    """What came in the open round."""
    return transaction.all(Update, run_id=run.run_id, version=run.version)


def _moved(
    transaction: Transaction, run: Run, state: RunState, verdict: Verdict, now: float, reason: str = ""
) -> bool:
    """Carry out a verdict: on to `state`, for a reason if there is one to tell, or FAILED; False if it is to wait."""
    if verdict.failure:
        transaction.move(run, RunState.FAILED, now, verdict.failure)
    elif verdict.go:
        transaction.move(run, state, now, reason)
    return bool(verdict.go or verdict.failure)
