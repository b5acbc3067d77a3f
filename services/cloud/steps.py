"""The steps of a run: from one state or round to the next, each in one transaction.

A step reads the facts, lets `enrolment.py` decide, and writes what follows; `making.py` takes those of rounds.
Arithmetic goes to threads; what it made is written only if the run is still as it was.
"""

import asyncio
from dataclasses import replace
from functools import lru_cache

from elsa.spec import RunSpec
from services.cloud.away import note_away
from services.cloud.deadlines import open_round
from services.cloud.ending import all_evaluated, complete, judge, why_over
from services.cloud.enrolment import Verdict, after_enrolling, after_pending, after_warmup, fits, with_room
from services.cloud.export import Exports
from services.cloud.fleet import Fleet
from services.cloud.keeper import Keeper
from services.cloud.keys import look_after, works
from services.cloud.leaving import nobody_left
from services.cloud.lifecycle import RunState
from services.cloud.making import Versions
from services.cloud.placing import decided
from services.cloud.planner import Planner
from services.cloud.planning import Planning
from services.cloud.presence import Presence
from services.cloud.reach import joined_edges, nearest, provisional, room_fault
from services.cloud.records import Answer, Clustering, Fingerprint, Member, Node, Profile, Run
from services.cloud.rehoming import rehome
from services.cloud.round_records import Round
from services.cloud.settling import begin_warmup, settle, settle_by_latency
from services.cloud.store import Store, Transaction

_SPECS = 64
"""Specifications that are kept parsed: each takes milliseconds, and every run is looked at again and again."""


class Steps:
    """Takes steps; a node silent for `gone_after_s` seconds is not waited for: an edge's clients go to others.

    Deadlines count from the cloud's start at the earliest: nobody could deliver while it was down.
    """

    def __init__(self, store: Store, keeper: Keeper, fleet: Fleet, exports: Exports, *, gone_after_s: float) -> None:
        self._store, self._keeper, self._exports = store, keeper, exports
        self._planner = Planner(store)
        self._presence = Presence(fleet, gone_after_s=gone_after_s)
        self._versions = Versions(store, keeper, self._planner, self._presence)
        self._spec = lru_cache(maxsize=_SPECS)(_spec_of)

    async def take(self, run_id: str, now: float) -> bool:
        """Take the one step that is due at `now`, unix seconds; False if none was."""
        with self._store.transaction() as transaction:
            run = transaction.run(run_id)
            if run.state is RunState.PENDING:
                return self._pending(transaction, run, now)
            if run.state is RunState.ENROLLING:
                offers = self._offer(transaction, run, self._fitting(transaction, self._spec(run.spec)))
                if offers:
                    return True
            members = transaction.all(Member, run_id=run_id)
            if note_away(transaction, run, members, self._presence, now):
                return True
            taken_back = rehome(transaction, run, members, self._presence.gone(members), self._presence.is_alive, now)
            if taken_back is None:
                if run.state is RunState.WARMUP:
                    return self._warm_up(transaction, run, members, now)
                if run.state is RunState.TRAINING and self._look_after(transaction, run, members, now):
                    return True
            over = why_over(transaction, self._spec(run.spec), run) if run.state is RunState.TRAINING else ""
        if taken_back is not None:
            await self._keeper.drop(taken_back)
            return True
        if run.state is RunState.ENROLLING:
            return await self._enrolling(run, members, now)
        if run.state is RunState.CLUSTERING:
            return await self._cluster(run, members, now)
        if run.state is RunState.TRAINING:
            if over:
                return await complete(self._store, self._exports, self._presence, run, over, now)
            if run.version == run.rounds:
                return await self._finish(run, members, now)
            return await self._versions.make(run, self._spec(run.spec), members, now)
        return False

    def _look_after(self, transaction: Transaction, run: Run, members: list[Member], now: float) -> bool:
        """See to the keys and the scores of a run that trains; whether anything was due."""
        gone = self._presence.gone(members)
        return look_after(transaction, run, members, gone, now) or judge(
            transaction, self._spec(run.spec), run, members, gone, now, self._presence.age
        )

    def _pending(self, transaction: Transaction, run: Run, now: float) -> bool:
        spec = self._spec(run.spec)
        fitting = self._fitting(transaction, spec)
        verdict = after_pending(spec.fleet, fitting, spec.data.name, self._presence.age(run.created_unix_s, now))
        if not _moved(transaction, run, RunState.ENROLLING, verdict, now):
            return False
        if verdict.go:
            self._offer(transaction, run, fitting)
        return True

    async def _enrolling(self, run: Run, members: list[Member], now: float) -> bool:
        spec = self._spec(run.spec)
        fleet = spec.fleet
        alive = {member.node_id for member in members if self._presence.is_alive(member.node_id)}
        waited_s = self._presence.age(run.created_unix_s, now)
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
            self._spec(run.spec).clustering,
            clients,
            transaction.fingerprinted(run.run_id, 0),
            self._presence.gone(members),
            self._presence.age(clustering.began_unix_s, now),
        )
        verdict = verdict if clients else Verdict(failure=nobody_left(members))
        return _moved(transaction, run, RunState.CLUSTERING, verdict, now)

    def _is_as_it_was(
        self, transaction: Transaction, run: Run, members: list[Member], planning: Planning | None
    ) -> bool:
        """Whether what was decided of a run, its members and, of a plan, their profiles still holds."""
        if transaction.run(run.run_id) != run or transaction.all(Member, run_id=run.run_id) != members:
            return False
        return planning is None or transaction.all(Profile, run_id=run.run_id) == list(planning.made_from)

    def _fitting(self, transaction: Transaction, spec: RunSpec) -> list[Node]:
        nodes = transaction.all(Node)
        return [node for node in nodes if fits(node, spec.data.name) and self._presence.is_alive(node.node_id)]

    def _offer(self, transaction: Transaction, run: Run, nodes: list[Node]) -> bool:
        """Offer a run to those of `nodes` that were not offered it before; whether there were any."""
        offered = {member.node_id for member in transaction.all(Member, run_id=run.run_id)}
        new = [node for node in nodes if node.node_id not in offered]
        for node in new:
            transaction.put(Member(run_id=run.run_id, node_id=node.node_id, role=node.role))
        return bool(new)

    async def _by_latency(self, run: Run, members: list[Member], now: float) -> bool:
        """The edges of a run that does not cluster."""
        edges = await self._presence.placed(members, nearest)
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
        spec = self._spec(run.spec)
        decision = await self._presence.placed(members, lambda chosen: decided(spec, chosen, sent))
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

    async def _finish(self, run: Run, members: list[Member], now: float) -> bool:
        with self._store.transaction() as transaction:
            last = transaction.all(Round, run_id=run.run_id, version=run.version)[0]
            open_s = self._presence.age(last.closed_unix_s or now, now)
            spec, gone = self._spec(run.spec), self._presence.gone(members)
            if not all_evaluated(transaction, spec, run, members, gone, open_s):
                return False
        return await complete(self._store, self._exports, self._presence, run, "", now)


def _spec_of(text: str) -> RunSpec:
    return RunSpec.from_yaml(text)


def _begin_to_train(transaction: Transaction, run: Run, now: float) -> None:
    transaction.move(run, RunState.TRAINING, now)
    open_round(transaction, run, 1, now)


def _moved(
    transaction: Transaction, run: Run, state: RunState, verdict: Verdict, now: float, reason: str = ""
) -> bool:
    """Carry out a verdict: on to `state`, for a reason if there is one to tell, or FAILED; False if it is to wait."""
    if verdict.failure:
        transaction.move(run, RunState.FAILED, now, verdict.failure)
    elif verdict.go:
        transaction.move(run, state, now, reason)
    return bool(verdict.go or verdict.failure)
