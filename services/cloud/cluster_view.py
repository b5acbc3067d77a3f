"""Who learns with whom, for operators: as it stands, with how far apart the clients' fingerprints are."""

import asyncio
import math

import numpy as np
from numpy.typing import NDArray

from elsa.cluster import divergence
from elsa.cluster.fingerprint import gaussians
from elsa.errors import NotFoundError
from elsa.spec import RunSpec
from services.cloud.behaviour import Behaviour
from services.cloud.clustering import Array
from services.cloud.events import Clustered
from services.cloud.records import Fingerprint
from services.cloud.settling import current
from services.cloud.store import Store

MOST_SHOWN = 400
"""Divergences are given for so many clients at most: of more, one message would not hold them."""


class ClusterView:
    """The clusters of runs in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, run_id: str) -> tuple[Clustered, NDArray[np.float32] | None]:
        """The clusters of a run, and divergences over their median, (clients, clients), in order of the places.

        A client without a fingerprint has NaN there. None for more than 400 clients, and for fewer than two
        fingerprints. Raises NotFoundError for an unknown run and one that has not clustered.
        """
        with self._store.transaction() as transaction:
            run = transaction.run(run_id)
            clusters = current(transaction, run_id)
            if clusters is None:
                raise NotFoundError(
                    f"run {run_id} has not clustered its clients ({run.state}); wait, or see its spec"
                )
            if len(clusters.places) > MOST_SHOWN:
                return clusters, None
            sent = transaction.all(Fingerprint, run_id=run_id)
        names = [place.client_id for place in clusters.places]
        sent = [kept for kept in sent if kept.client_id in names]
        if len(sent) < 2:
            return clusters, None
        return clusters, await asyncio.to_thread(_divergence, RunSpec.from_yaml(run.spec), names, sent)


def _divergence(spec: RunSpec, names: list[str], sent: list[Fingerprint]) -> NDArray[np.float32]:
    behaviour = Behaviour.of(sent)
    apart = divergence.scaled(divergence.divergences(gaussians(behaviour.first, spec.clustering.shrinkage)))
    rows = [names.index(client) for client in behaviour.ids]
    whole: Array = np.full((len(names), len(names)), math.nan)
    whole[np.ix_(rows, rows)] = apart
    return whole.astype(np.float32)
