"""A client's warm-up: some steps with the edge of the time being, probes answered, and the fingerprint sent.

What is trained here is thrown away: rounds begin from the same adapter for all. A client whose edge or cloud is away
for too long goes on without a fingerprint, and is placed by latency alone; one that is refused leaves the run. One
that is given another edge meanwhile warms up there.
"""

import logging
import threading
from collections.abc import Callable

import numpy as np
import torch

from elsa.cluster.fingerprint import projection
from elsa.data.probes import probes_of, probes_sha256
from elsa.errors import MalformedError, StaleRoundError
from elsa.spec import RunSpec
from elsa.train.answering import Answers
from elsa.v1 import adapter_pb2, fleet_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.tensor_pb2 import DType, Tensor
from elsa.wire.tensor import raw_bytes
from services.client.patience import PASSING, Patience
from services.client.trainer import RoundTrainer
from services.rpc.adapters import pull_when_there
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)


class WarmUp:
    """One client's fingerprint in one run.

    Args:
        stop: set when the run has ended here, or when the client goes to another edge.
        over: whether the run trains already, so that nobody waits for the fingerprint.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        trainer: RoundTrainer,
        *,
        link: CloudLink,
        edge: AdapterServiceStub,
        peer: str,
        stop: threading.Event,
        over: Callable[[], bool],
        patience_s: float,
    ) -> None:
        self._run_id = run_id
        self._spec = spec
        self._trainer = trainer
        self._link = link
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
        asked = self._ask()
        made = self._trainer.warm_up(pulled, asked.probes)
        upload = fingerprint_to_proto(self._spec, made, asked.sha256)
        upload.run_id, upload.client_id = self._run_id, self._link.node_id
        self._link.patiently(lambda: self._link.fleet.UploadFingerprint(upload, timeout=CALL_TIMEOUT_S))
        log.info("run %s: fingerprint of %d probes sent", self._run_id, len(asked.probes))

    def _ask(self) -> fleet_pb2.GetProbesResponse:
        """The probes in our order. Raises MalformedError for texts that are not the run's: those alone are public."""
        request = fleet_pb2.GetProbesRequest(run_id=self._run_id, client_id=self._link.node_id)
        asked: list[fleet_pb2.GetProbesResponse] = []
        self._link.patiently(lambda: asked.append(self._link.fleet.GetProbes(request, timeout=CALL_TIMEOUT_S)))
        known = probes_of(self._spec.clustering.probes)
        if asked[-1].sha256 != probes_sha256(known):
            raise MalformedError(
                f"probes_sha256: the cloud asks {asked[-1].sha256[:12]}, this client knows "
                f"{probes_sha256(known)[:12]}; all nodes need the same version of ELSA"
            )
        strange = next((text for text in asked[-1].probes if text not in known), None)
        if strange is not None:
            raise MalformedError(f"probes: {strange[:80]!r} is none of the run's")
        return asked[-1]


def fingerprint_to_proto(spec: RunSpec, made: Answers, sha256: str) -> fleet_pb2.UploadFingerprintRequest:
    """A fingerprint as a message: the answers projected as all clients of the run project them."""
    columns = projection(made.embeddings.shape[1], spec.clustering.dimensions, [spec.seed])
    embeddings = made.embeddings @ torch.from_numpy(columns.astype(np.float32))
    request = fleet_pb2.UploadFingerprintRequest(probes_sha256=sha256, embeddings=_float32_to_proto(embeddings))
    if made.probabilities is not None:
        request.probabilities.CopyFrom(_float32_to_proto(made.probabilities))
    return request


def _float32_to_proto(values: torch.Tensor) -> Tensor:
    return Tensor(dtype=DType.DTYPE_FLOAT32, shape=list(values.shape), data=raw_bytes(values.float()))
