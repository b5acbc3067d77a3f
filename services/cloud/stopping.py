"""Early stopping: how good each version is, which is the best, and whether that is reason enough to end the run.

A version is judged once, from the evaluations that have come by then, and its score is kept with its round: whatever
comes later, or a cloud that is restarted, changes nothing of what was decided.
"""

from collections.abc import Sequence

from elsa.spec import EarlyStoppingSpec
from services.cloud.round_records import Evaluation, Round
from services.cloud.rounds import mean_by_rows

_SHOWN = 10


def score_of(spec: EarlyStoppingSpec, evaluations: Sequence[Evaluation]) -> float:
    """The metric of a version over all clients that reported, at least one, weighted by rows; lower is better.

    Of a client that did not evaluate its cluster's adapter, the metric of the run's counts.
    """
    return mean_by_rows(evaluations, lambda evaluation: _metric(spec, evaluation))


def best_of(rounds: Sequence[Round]) -> int | None:
    """The version with the least score, of equals the first; None where none was judged."""
    scored = [(kept.score, kept.version) for kept in rounds if kept.score is not None]
    return min(scored)[1] if scored else None


def why_to_stop(spec: EarlyStoppingSpec, rounds: Sequence[Round]) -> str:
    """Why a run ends after these rounds, in order, on one line; empty if it goes on."""
    scored = [(kept.version, kept.score) for kept in rounds if kept.score is not None]
    since = _since_better(scored, spec.min_delta)
    if len(since) <= spec.patience:
        return ""
    (mark, reached), *later = since
    shown = ", ".join(f"{_said(spec, score)} of version {version}" for version, score in later[-_SHOWN:])
    by = f" by more than {spec.min_delta:g}" if spec.min_delta else ""
    return (
        f"stopped early: {spec.metric} {_said(spec, reached)} of version {mark} was not bettered{by} in "
        f"{len(later)} versions: {shown}"
    )


def _since_better(scored: Sequence[tuple[int, float]], min_delta: float) -> list[tuple[int, float]]:
    """From the last version on that was better than the one to be bettered before it."""
    since: list[tuple[int, float]] = []
    for version, score in scored:
        if not since or score < since[0][1] - min_delta:
            since = []
        since.append((version, score))
    return since


def _metric(spec: EarlyStoppingSpec, evaluation: Evaluation) -> float:
    of = evaluation.own if spec.adapter == "cluster" and evaluation.own is not None else evaluation
    return of.loss if spec.metric == "loss" else -of.accuracy


def _said(spec: EarlyStoppingSpec, score: float) -> str:
    return f"{score if spec.metric == 'loss' else -score:.4g}"
