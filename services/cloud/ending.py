"""The end of a run that went well: its versions judged where it may stop early, and the one to keep exported."""

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from elsa.spec import RunSpec
from services.cloud.export import Exports, Made
from services.cloud.keys import works
from services.cloud.lifecycle import RunState
from services.cloud.records import ClusterAdapter, Evaluation, Member, Round, Run
from services.cloud.rounds import evaluated
from services.cloud.stopping import best_of, score_of, why_to_stop
from services.cloud.store import Store, Transaction

Age = Callable[[float, float], float]
"""Seconds from a unix second to another, of those in which the cloud was there."""


def judge(
    transaction: Transaction, run: Run, members: Sequence[Member], gone: Collection[str], now: float, age: Age
) -> bool:
    """Give the next version that is due its score, in a run that may stop early; whether one was due.

    Due is one that the quorum of the clients that are not `gone` has evaluated, or from which the next one has been
    made, or whose evaluations have been waited for as long as a round may take; the last one, once the run may end.
    """
    spec = RunSpec.from_yaml(run.spec)
    if spec.training.early_stopping is None or run.version is None:
        return False
    rounds = transaction.all(Round, run_id=run.run_id)
    clients = {member.node_id for member in members if works(member)}
    first = max((kept.version for kept in rounds if kept.score is not None), default=-1) + 1
    for made in rounds[first : run.version + 1]:
        reports = transaction.all(Evaluation, run_id=run.run_id, version=made.version)
        begun = rounds[made.version + 1].opened_unix_s if made.version < run.rounds else made.closed_unix_s or now
        reported = {report.client_id for report in reports}
        if reports and _is_due(spec, run, made, clients, reported, set(gone), age(begun, now)):
            rounds[made.version] = replace(made, score=score_of(spec.training.early_stopping, reports))
            transaction.put(rounds[made.version])
            transaction.put(replace(run, best=best_of(rounds)))
            return True
    return False


def why_over(transaction: Transaction, run: Run) -> str:
    """Why a run ends before its rounds are made, on one line; empty where it does not."""
    spec = RunSpec.from_yaml(run.spec).training.early_stopping
    if spec is None or run.version == run.rounds:
        return ""
    return why_to_stop(spec, transaction.all(Round, run_id=run.run_id))


def all_evaluated(
    transaction: Transaction, run: Run, members: Sequence[Member], gone: Collection[str], open_s: float
) -> bool:
    """Whether the evaluations of a run's last version are in, or have been waited for long enough."""
    reports = transaction.all(Evaluation, run_id=run.run_id, version=run.version)
    clients = [member.node_id for member in members if works(member)]
    return evaluated(RunSpec.from_yaml(run.spec).rounds, clients, [kept.client_id for kept in reports], gone, open_s)


async def complete(store: Store, exports: Exports, run: Run, why: str, now: float) -> bool:
    """Export the version to keep, with its clusters' adapters, and end the run if it still is as it is here."""
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
            transaction.move(run, RunState.COMPLETED, now, "; ".join(filter(None, [why, told])))
    return True


def _is_due(
    spec: RunSpec, run: Run, made: Round, clients: set[str], reported: set[str], gone: set[str], open_s: float
) -> bool:
    if made.version < (run.version or 0):
        return True
    if made.version == run.rounds:
        return evaluated(spec.rounds, clients, reported, gone, open_s)
    there = clients - gone
    quorum = max(math.ceil(spec.rounds.quorum * len(there) - 1e-9), 1)
    return len(there & reported) >= quorum or open_s >= spec.rounds.deadline_s
