"""Writes down a closed round: its version, those of the clusters, and what it tells of clients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from elsa.spec import RunSpec
from services.cloud.absent import SHOWN, absent, took_part
from services.cloud.events import RoundClosed
from services.cloud.merging import Merged
from services.cloud.records import Member, Run
from services.cloud.round_records import ClusterAdapter, Round, Update
from services.cloud.store import Transaction
from services.cloud.trusting import judge


def close(
    transaction: Transaction,
    run: Run,
    closed: Round,
    made: Merged,
    updates: Sequence[Update],
    edges: Sequence[str],
    members: Sequence[Member],
    silent: Mapping[str, str],
    now: float,
) -> None:
    """Make a round's version the newest, with its event.

    Args:
        made: of `updates`.
        edges: those that were waited for.
        silent: those of `members` not heard of lately, and why or for how long.
    """
    transaction.put(closed)
    transaction.put(replace(run, version=closed.version))
    _keep_clusters(transaction, run, closed.version, made)
    judge(transaction, run, RunSpec.from_yaml(run.spec).trust, updates, now)
    for update in updates:
        if update.moved:
            transaction.put(replace(update, moved={}))
    missing = absent(members, updates, silent)
    event = RoundClosed(
        version=closed.version,
        edge_ids=closed.edge_ids,
        missing_edge_ids=tuple(edge for edge in edges if edge not in closed.edge_ids),
        seconds=now - closed.opened_unix_s,
        clients=len(took_part(members)),
        absent=len(missing),
        absentees=tuple(missing[:SHOWN]),
    )
    transaction.append(run.run_id, event, now)


def _keep_clusters(transaction: Transaction, run: Run, version: int, made: Merged) -> None:
    """The clusters' adapters of a version; one of which nothing came keeps that of the version before."""
    kept = {
        before.cluster: replace(before, version=version)
        for before in transaction.all(ClusterAdapter, run_id=run.run_id, version=version - 1)
    }
    for cluster, file in made.clusters.items():
        kept[cluster] = ClusterAdapter(
            run_id=run.run_id,
            version=version,
            cluster=cluster,
            sha256=file.sha256,
            total_bytes=len(file.data),
        )
    for adapter in kept.values():
        transaction.put(adapter)
