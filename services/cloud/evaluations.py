"""What a client says of a version on its kept-back rows: how it is checked against its run, and written down."""

from dataclasses import replace

from elsa.errors import MalformedError, PermissionDeniedError, StaleRoundError
from services.cloud.events import EvaluationReported, Metrics
from services.cloud.fleet import MOST, check_number
from services.cloud.lifecycle import RunState
from services.cloud.records import Clustering, Member, Run
from services.cloud.round_records import MOST_CLUSTERS, Evaluation
from services.cloud.rounds import total
from services.cloud.store import Transaction


def check_evaluation(evaluation: Evaluation) -> None:
    """Raise MalformedError, naming the field, for figures that are out of bounds."""
    check_number("evaluation.version", evaluation.version, 0, MOST)
    check_number("evaluation.rows", evaluation.rows, 1, MOST)
    check_number("evaluation.loss", evaluation.loss)
    check_number("evaluation.accuracy", evaluation.accuracy, 0, 1)
    if evaluation.own is not None:
        check_number("cluster_evaluation.cluster", evaluation.own.cluster, 0, MOST_CLUSTERS - 1)
        check_number("cluster_evaluation.loss", evaluation.own.loss)
        check_number("cluster_evaluation.accuracy", evaluation.own.accuracy, 0, 1)


def keep_evaluation(transaction: Transaction, run: Run, client: Member, evaluation: Evaluation, now: float) -> bool:
    """Write an evaluation down, with its event; False if there is one of the same client and version.

    Raises StaleRoundError, PermissionDeniedError, MalformedError as `Runs.report_evaluation`.
    """
    known = transaction.all(Evaluation, run_id=run.run_id, version=evaluation.version)
    if any(other.client_id == evaluation.client_id for other in known):
        return False
    _check_wanted(transaction, run, client, evaluation)
    transaction.put(evaluation)
    body = EvaluationReported(
        client_id=evaluation.client_id,
        evaluation=_metrics(evaluation),
        total=total(evaluation.version, [*known, evaluation]),
        own=_own_metrics(evaluation),
    )
    transaction.append(run.run_id, body, now)
    return True


def _check_wanted(transaction: Transaction, run: Run, client: Member, evaluation: Evaluation) -> None:
    if run.state is not RunState.TRAINING:
        raise StaleRoundError(f"run {run.run_id} is {run.state} and takes no evaluations")
    if client.edge_id is None:
        raise PermissionDeniedError(f"{evaluation.client_id} is no client of run {run.run_id}")
    if run.version is None or evaluation.version > run.version:
        raise MalformedError(f"evaluation.version: {evaluation.version}; the newest is {run.version}")
    if evaluation.own is not None and not _has_clustered(transaction, run.run_id):
        raise MalformedError(f"cluster_evaluation: run {run.run_id} has no clusters; leave it out")


def _has_clustered(transaction: Transaction, run_id: str) -> bool:
    made = transaction.get(Clustering, run_id=run_id)
    return made is not None and made.version is not None


def _metrics(evaluation: Evaluation) -> Metrics:
    return Metrics(
        version=evaluation.version, rows=evaluation.rows, loss=evaluation.loss, accuracy=evaluation.accuracy
    )


def _own_metrics(evaluation: Evaluation) -> Metrics | None:
    own = evaluation.own
    if own is None:
        return None
    return replace(_metrics(evaluation), loss=own.loss, accuracy=own.accuracy, cluster=own.cluster)
