"""How good a run's adapter is for each cluster's clients, and the cluster's own: checked, as lines and as JSON."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from elsa.errors import MalformedError
from elsa.v1 import run_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class Score:
    """Figures of one cluster, both adapters on the same rows of the same clients."""

    cluster: int
    version: int
    clients: int
    """That have reported both."""
    rows: int
    """That these keep back."""
    accuracy: float
    loss: float
    """Of the run's adapter."""
    own_accuracy: float
    own_loss: float
    """Of the cluster's own."""

    def as_json(self) -> dict[str, Any]:
        """The same by names that a program reads."""
        return {
            "cluster": self.cluster,
            "version": self.version,
            "clients": self.clients,
            "rows": self.rows,
            "accuracy": round(self.accuracy, 6),
            "loss": round(self.loss, 6),
            "own_accuracy": round(self.own_accuracy, 6),
            "own_loss": round(self.own_loss, 6),
        }


def scores_from_proto(scores: Iterable[pb.ClusterScore]) -> tuple[Score, ...]:
    """The scores by cluster. Raises MalformedError naming the field, and for a cluster that comes twice."""
    found: dict[int, Score] = {}
    for told in scores:
        if told.cluster in found:
            raise MalformedError(f"GetClustersResponse.scores: cluster {told.cluster} comes twice")
        found[told.cluster] = _score(told)
    return tuple(found[cluster] for cluster in sorted(found))


def line_of(cluster: int, clients: int, score: Score | None) -> str:
    """A cluster of so many clients on one line, with both figures where it has been evaluated."""
    said = f"cluster {cluster}: {clients} client{'' if clients == 1 else 's'}"
    if score is None:
        return said
    some = f" of {score.clients} of them" if score.clients < clients else ""
    return (
        f"{said}, {score.rows:,} rows{some}, accuracy {score.accuracy:.3f} with the run's adapter, "
        f"{score.own_accuracy:.3f} with its own (version {score.version})"
    )


def _score(told: pb.ClusterScore) -> Score:
    run, own = told.evaluation, told.cluster_evaluation
    for name, evaluation in (("evaluation", run), ("cluster_evaluation", own)):
        where = f"ClusterScore.{name}"
        if not evaluation.rows:
            raise MalformedError(f"{where}.rows: 0 for cluster {told.cluster}; a score needs rows")
        if not 0 <= evaluation.accuracy <= 1:
            raise MalformedError(f"{where}.accuracy: {evaluation.accuracy} of cluster {told.cluster} is no share")
        if not math.isfinite(evaluation.loss):
            raise MalformedError(f"{where}.loss: {evaluation.loss} of cluster {told.cluster} is not finite")
    return Score(
        cluster=told.cluster,
        version=run.version,
        clients=run.clients,
        rows=run.rows,
        accuracy=run.accuracy,
        loss=run.loss,
        own_accuracy=own.accuracy,
        own_loss=own.loss,
    )
