"""One run's way from this edge to the cloud and back: versions are pulled, and what was made of them is pushed."""

import logging
import threading
import uuid

from elsa.errors import CapacityError, NotFoundError, PeerError, StaleRoundError, TakenError
from elsa.v1 import adapter_pb2
from elsa.wire.adapter import decode_adapter, encode_adapter
from services.edge.delivery import Delivery
from services.edge.own_trunks import Adapter
from services.rpc.adapters import Pulled, pull_when_there, push
from services.rpc.node import CloudLink

log = logging.getLogger(__name__)

PASSING = (PeerError, CapacityError)
"""What a cloud may answer for a while: its disk or bucket fails once or is full, our rate is used up."""


class CloudRounds:
    """The versions of one run, as this edge has them of the cloud.

    Args:
        stop: set when the run has ended here, or the edge is to stop.
    """

    def __init__(self, run_id: str, link: CloudLink, stop: threading.Event) -> None:
        self._run_id = run_id
        self._link = link
        self._stop = stop

    def pull(self, version: int, cluster: int | None = None) -> Pulled:
        """The newest version at or past that one; with `cluster`, that cluster's adapter of it.

        Raises as `pull_when_there`.
        """
        request = adapter_pb2.PullAdapterRequest(
            run_id=self._run_id, node_id=self._link.node_id, version=version, cluster=cluster
        )
        return pull_when_there(
            self._link.adapters,
            request,
            self._link.peer,
            stop=self._stop,
            patience_s=self._link.patience_s,
            passing=PASSING,
        )

    def pull_cluster(self, version: int, cluster: int) -> Adapter | None:
        """The adapter of a cluster, None where it has none of this version."""
        try:
            return decode_adapter(self.pull(version, cluster).data)
        except NotFoundError:
            return None

    def deliver(self, delivery: Delivery, version: int, edge_rounds: int, clusters_version: int | None) -> bool:
        """Push what was made of a version; whether there was anything and the cloud took it.

        Args:
            edge_rounds: of the version.
            clusters_version: from which the clusters hold whose parcels these are; None where there are none.
        """
        if not delivery.adapters:
            log.warning("run %s: no client delivered in version %d; nothing to push", self._run_id, version)
        parcels, attempt = delivery.parcels(), uuid.uuid4().hex
        taken = False
        for parcel in parcels:
            header = adapter_pb2.AdapterHeader(
                run_id=self._run_id,
                node_id=self._link.node_id,
                version=version,
                edge_round=edge_rounds,
                rows=parcel.rows,
                effective_steps=parcel.steps,
                reports=parcel.reports,
                cluster=None if clusters_version is None else parcel.cluster,
                parts=len(parcels),
                delivery_id=attempt,
                clusters_version=clusters_version,
                cut_short=delivery.cut_short,
            )
            taken = self.push(header, encode_adapter(parcel.adapter)) or taken
        return taken

    def push(self, header: adapter_pb2.AdapterHeader, data: bytes) -> bool:
        """Push one adapter; False if it came too late. True also where other work of ours of this version counts."""
        try:
            self._link.patiently(lambda: push(self._link.adapters, header, data))
        except TakenError as error:  # as before a restart that lost what was kept
            log.warning("run %s: what was delivered before counts: %s", self._run_id, error)
        except StaleRoundError as error:
            log.warning("run %s: came too late: %s", self._run_id, error)
            return False
        return True
