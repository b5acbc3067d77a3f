"""A client's warm-up: some steps with the edge of the time being, probes answered, and the fingerprint sent.

What is trained here is thrown away: rounds begin from the same adapter for all. A client whose edge or cloud is away
for too long goes on without a fingerprint, and is placed by latency alone; one that is refused leaves the run. One
that is given another edge meanwhile warms up there.
"""

import logging
import threading
from collections.abc import Callable

from elsa.errors import StaleRoundError
from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from services.client.fingerprints import Fingerprints
from services.client.patience import PASSING, Patience
from services.client.trainer import RoundTrainer
from services.rpc.adapters import pull_when_there
from services.rpc.node import CloudLink

log = logging.getLogger(__name__)


class WarmUp:
    """One client's fingerprint in one run.

    Args:
        trainer: gives the trainer of this client's share as it is now.
        stop: set when the run has ended here, or when the client goes to another edge.
        over: whether the run trains already, so that nobody waits for the fingerprint.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        trainer: Callable[[], RoundTrainer],
        *,
        link: CloudLink,
        edge: AdapterServiceStub,
        peer: str,
        stop: threading.Event,
        over: Callable[[], bool],
        patience_s: float,
    ) -> None:
        self._run_id = run_id
        self._trainer = trainer
        self._link = link
        self._fingerprints = Fingerprints(run_id, spec, link)
        self._edge = edge
        self._peer = peer
        self._stop = stop
        self._over = over
        self._patience_s = patience_s

    def run(self) -> bool:
        """Make and send it; again after what passes, until it is there, too late, or the patience is spent.

        False if stopped before that.
        """
        try:
            return Patience(self._run_id, self._patience_s, self._stop).until(self._is_done)
        except PASSING as error:
            log.warning("run %s: goes on without a fingerprint: %s", self._run_id, error)
            return True

    def _is_done(self) -> bool:
        if not self._over():
            self._once()
        return True

    def _once(self) -> None:
        request = adapter_pb2.PullAdapterRequest(run_id=self._run_id, node_id=self._link.node_id)
        pulled = pull_when_there(self._edge, request, self._peer, stop=self._stop, patience_s=self._patience_s)
        if (pulled.version, pulled.edge_round) != (0, 0):
            raise StaleRoundError(f"{self._peer} is past the warm-up")
        asked = self._fingerprints.asked()
        self._fingerprints.send(asked, self._trainer().warm_up(pulled, asked.probes))
