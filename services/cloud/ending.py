"""The end of a run that went well: its versions judged where it may stop early, and the one to keep exported."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from elsa.spec import RunSpec
from services.cloud.absent import absent_at_the_end, sentence, took_part
from services.cloud.export import Exports, Made
from services.cloud.keys import works
from services.cloud.lifecycle import RunState
from services.cloud.presence import Presence
from services.cloud.records import Member, Run
from services.cloud.round_records import ClusterAdapter, Evaluation, Round, Update
from services.cloud.rounds import enough_evaluated, evaluated
from services.cloud.stopping import best_of, score_of, why_to_stop
from services.cloud.store import Store, Transaction

Age = Callable[[float, float], float]
"""Seconds from a unix second to another, of those in which the cloud was there."""


def judge(
    transaction: Transaction,
    spec: RunSpec,
    run: Run,
    members: Sequence[Member],
    gone: Collection[str],
    now: float,
    age: Age,
) -> bool:
    """Give the next version that is due its score, in a run that may stop early; whether one was due.

    Due is one that the quorum of the clients that are there has evaluated, whenever that is; the last one, once the
    run may end besides. One that fewer evaluated by the time that a later one is judged never gets a score: it would
    be that of whoever was fast.
    """
    if spec.training.early_stopping is None or run.version is None:
        return False
    rounds = transaction.all(Round, run_id=run.run_id)
    clients = {member.node_id for member in members if works(member)}
    first = max((kept.version for kept in rounds if kept.score is not None), default=-1) + 1
    for made in rounds[first : run.version + 1]:
        reports = transaction.all(Evaluation, run_id=run.run_id, version=made.version)
        reported = {report.client_id for report in reports}
        waited_s = age(made.closed_unix_s or now, now)
        over = made.version < run.rounds or evaluated(spec.rounds, clients, reported, gone, waited_s)
        if over and enough_evaluated(spec.rounds, clients, reported, gone):
            rounds[made.version] = replace(made, score=score_of(spec.training.early_stopping, reports))
            transaction.put(rounds[made.version])
            transaction.put(replace(run, best=best_of(rounds)))
            return True
    return False


def why_over(transaction: Transaction, spec: RunSpec, run: Run) -> str:
    """Why a run ends before its rounds are made, on one line; empty where it does not."""
    early = spec.training.early_stopping
    if early is None or run.version == run.rounds:
        return ""
    return why_to_stop(early, transaction.all(Round, run_id=run.run_id))


def all_evaluated(
    transaction: Transaction,
    spec: RunSpec,
    run: Run,
    members: Sequence[Member],
    gone: Collection[str],
    open_s: float,
) -> bool:
    """Whether the evaluations of a run's last version are in, or have been waited for long enough."""
    reports = transaction.all(Evaluation, run_id=run.run_id, version=run.version)
    clients = [member.node_id for member in members if works(member)]
    return evaluated(spec.rounds, clients, [kept.client_id for kept in reports], gone, open_s)


async def complete(store: Store, exports: Exports, presence: Presence, run: Run, why: str, now: float) -> bool:
    """Export the version to keep, with its clusters' adapters, and end the run if it still is as it is here.

    Its reason says who did not take part to the end.
    """
    version = run.version if run.best is None else run.best
    with store.transaction() as transaction:
        kept = transaction.all(Round, run_id=run.run_id, version=version)[0]
        clusters = transaction.all(ClusterAdapter, run_id=run.run_id, version=version)
    own = [Made(version=each.version, sha256=each.sha256, cluster=each.cluster) for each in clusters]
    for made in (Made(version=kept.version, sha256=kept.sha256 or ""), *own):
        await asyncio.to_thread(exports.write, run, made)
    told = f"version {version} is the best and the one to export" if run.best is not None else ""
    with store.transaction() as transaction:
        if transaction.run(run.run_id) == run:
            missing = _missing(transaction, run, presence)
            transaction.move(run, RunState.COMPLETED, now, "; ".join(filter(None, [why, told, missing])))
    return True


def _missing(transaction: Transaction, run: Run, presence: Presence) -> str:
    """Who did not take part to the end, on one line; empty where all did."""
    members = transaction.all(Member, run_id=run.run_id)
    version = run.version or 0
    missing = absent_at_the_end(
        members,
        transaction.all(Update, run_id=run.run_id, version=version - 1),
        transaction.all(Evaluation, run_id=run.run_id, version=version),
        presence.silent(members),
        trained=version > 0,
        awaited=version == run.rounds,
    )
    return sentence(missing, len(took_part(members)))
