"""When a round closes and what its metrics are: decisions from facts, without side effects."""

import math
from collections.abc import Callable, Collection, Sequence

from elsa.spec import RoundsSpec
from services.cloud.enrolment import GO, WAIT, Verdict
from services.cloud.events import Metrics
from services.cloud.records import Answer, Member
from services.cloud.round_records import Evaluation, Update

HALF = 0.5
"""Share of the edges without which a shortened deadline closes no round."""


def working_edges(members: Sequence[Member]) -> tuple[str, ...]:
    """The edges that have clients, in order of their names."""
    return tuple(sorted({member.edge_id for member in members if member.answer is Answer.JOINED and member.edge_id}))


def delivered(updates: Sequence[Update]) -> tuple[str, ...]:
    """The edges of whose updates of a version one delivery is all there: one for each cluster that it has any of."""
    parts: dict[tuple[str, str], list[int]] = {}
    for update in updates:
        parts.setdefault((update.edge_id, update.delivery_id), []).append(update.parts)
    return tuple(sorted({edge for (edge, _), said in parts.items() if len(said) >= min(said)}))


def is_quorate(rounds: RoundsSpec, edges: Collection[str], updates: Sequence[Update]) -> bool:
    """Whether enough of `edges` have delivered; one that delivered and then left does not count towards it."""
    return _have_delivered(edges, updates, rounds.quorum)


def closing(
    rounds: RoundsSpec,
    version: int,
    edges: Collection[str],
    updates: Sequence[Update],
    open_s: float,
    deadline_s: float = math.inf,
) -> Verdict:
    """Whether the round that makes `version` closes: at its quorum, or at a deadline with what has come.

    At its own `deadline_s` only if half of its edges have delivered, where that is shorter than the specification's.
    """
    if is_quorate(rounds, edges, updates):
        return GO
    if open_s >= deadline_s and _have_delivered(edges, updates, HALF):
        return GO
    if updates and open_s >= rounds.deadline_s:
        return GO
    if open_s >= rounds.deadline_s:
        return Verdict(
            failure=f"round {version}: no edge delivered within {rounds.deadline_s:g} s; see the logs of "
            f"{', '.join(edges)}, or raise rounds.deadline_s"
        )
    return WAIT


def _have_delivered(edges: Collection[str], updates: Sequence[Update], share: float) -> bool:
    whole = set(delivered(updates))
    return bool(whole) and len(whole & set(edges)) >= math.ceil(share * len(edges) - 1e-9)


def evaluated(
    rounds: RoundsSpec, clients: Collection[str], reported: Collection[str], gone: Collection[str], open_s: float
) -> bool:
    """Whether the evaluations of the last version are in: from all clients that are not gone, or at the deadline."""
    return open_s >= rounds.deadline_s or set(clients) <= set(reported) | set(gone)


def enough_evaluated(
    rounds: RoundsSpec, clients: Collection[str], reported: Collection[str], gone: Collection[str]
) -> bool:
    """Whether the quorum of the clients has evaluated a version; who is gone counts as there if it did before."""
    done = set(clients) & set(reported)
    there = done | (set(clients) - set(gone))
    return len(done) >= max(math.ceil(rounds.quorum * len(there) - 1e-9), 1)


def total(version: int, evaluations: Sequence[Evaluation]) -> Metrics:
    """Metrics of a version over all clients that reported, weighted by rows; at least one."""
    return Metrics(
        version=version,
        rows=sum(evaluation.rows for evaluation in evaluations),
        loss=mean_by_rows(evaluations, lambda evaluation: evaluation.loss),
        accuracy=mean_by_rows(evaluations, lambda evaluation: evaluation.accuracy),
        clients=len(evaluations),
    )


def mean_by_rows(evaluations: Sequence[Evaluation], figure: Callable[[Evaluation], float]) -> float:
    """The mean of a figure of at least one evaluation, weighted by rows; their order does not matter."""
    rows = sum(evaluation.rows for evaluation in evaluations)
    return math.fsum(figure(evaluation) * evaluation.rows for evaluation in evaluations) / rows


def totals(evaluations: Sequence[Evaluation]) -> tuple[Metrics, ...]:
    """The metrics of each version that was evaluated, in order."""
    versions = sorted({evaluation.version for evaluation in evaluations})
    return tuple(
        total(version, [evaluation for evaluation in evaluations if evaluation.version == version])
        for version in versions
    )
