"""Who learns with whom, for operators: as it stands, with how far apart the clients' fingerprints are."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elsa.cluster import divergence
from elsa.cluster.fingerprint import gaussians
from elsa.errors import NotFoundError
from elsa.spec import RunSpec
from services.cloud.behaviour import Behaviour
from services.cloud.clustering import Array
from services.cloud.events import Clustered, Metrics
from services.cloud.records import Clustering, Fingerprint
from services.cloud.round_records import Evaluation
from services.cloud.rounds import total
from services.cloud.settling import current
from services.cloud.store import Store

MOST_SHOWN = 400
"""Divergences are given for so many clients at most: of more, one message would not hold them."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good the newest evaluated version is for one cluster's clients, those that have reported both."""

    cluster: int
    whole: Metrics
    """Under the run's adapter."""
    own: Metrics
    """Under the cluster's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Who learns with whom, as it stands."""

    clustered: Clustered
    divergence: NDArray[np.float32] | None
    """Over the median, (clients, clients), in order of the places, NaN for a client without a fingerprint.

    None for more than 400 clients, and for fewer than two fingerprints.
    """
    scores: tuple[Scores, ...]
    """In order of the clusters; of those alone whose clients have reported."""


class ClusterView:
    """The clusters of runs in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, run_id: str) -> View:
        """The clusters of a run. Raises NotFoundError for an unknown run and one that has not clustered."""
        with self._store.transaction() as transaction:
            run = transaction.run(run_id)
            clusters = current(transaction, run_id)
            if clusters is None:
                raise NotFoundError(
                    f"run {run_id} has not clustered its clients ({run.state}): it does not, or not yet; "
                    "see clustering in its specification"
                )
            scores = _scores(transaction.newest_evaluations(run_id))
            names = [place.client_id for place in clusters.places]
            sent: list[Fingerprint] = []
            if len(names) <= MOST_SHOWN:
                made = transaction.all(Clustering, run_id=run_id)[0]
                sent = transaction.all(Fingerprint, run_id=run_id, version=made.version)
        sent = [kept for kept in sent if kept.client_id in names]
        spec = RunSpec.from_yaml(run.spec)
        apart = await asyncio.to_thread(_divergence, spec, names, sent) if len(sent) > 1 else None
        return View(clustered=clusters, divergence=apart, scores=scores)


def _scores(evaluations: Sequence[Evaluation]) -> tuple[Scores, ...]:
    """The scores of one version's evaluations."""
    both: dict[int, list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.own is not None:
            both.setdefault(evaluation.own.cluster, []).append(evaluation)
    return tuple(
        Scores(
            cluster=cluster,
            whole=total(found[0].version, found),
            own=replace(total(found[0].version, [_as_own(evaluation) for evaluation in found]), cluster=cluster),
        )
        for cluster, found in sorted(both.items())
    )


def _as_own(evaluation: Evaluation) -> Evaluation:
    own = evaluation.own
    return evaluation if own is None else replace(evaluation, loss=own.loss, accuracy=own.accuracy)


def _divergence(spec: RunSpec, names: list[str], sent: list[Fingerprint]) -> NDArray[np.float32]:
    behaviour = Behaviour.of(sent)
    apart = divergence.scaled(divergence.divergences(gaussians(behaviour.first, spec.clustering.shrinkage)))
    rows = [names.index(client) for client in behaviour.ids]
    whole: Array = np.full((len(names), len(names)), math.nan)
    whole[np.ix_(rows, rows)] = apart
    return whole.astype(np.float32)
