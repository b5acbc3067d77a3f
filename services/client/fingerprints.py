"""A client's fingerprints: the probes as the cloud asks them, and its answers as they are sent."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from elsa.cluster.fingerprint import projection
from elsa.data.probes import probes_of, probes_sha256
from elsa.errors import MalformedError
from elsa.spec import RunSpec
from elsa.train.answering import Answers
from elsa.v1 import fleet_pb2
from elsa.v1.tensor_pb2 import DType, Tensor
from elsa.wire.tensor import raw_bytes
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the cloud asks this client."""

    probes: tuple[str, ...]
    """In its own order, some repeated."""
    sha256: str
    """Of the whole set."""


class Fingerprints:
    """One client's in one run."""

    def __init__(self, run_id: str, spec: RunSpec, link: CloudLink) -> None:
        self._run_id = run_id
        self._spec = spec
        self._link = link

    def asked(self) -> Asked:
        """The probes in our order.

        Raises MalformedError for texts that are not the run's, as those alone are public, and StaleRoundError in a
        run that does not cluster its clients.
        """
        request = fleet_pb2.GetProbesRequest(run_id=self._run_id, client_id=self._link.node_id)
        answer = self._link.patiently(lambda: self._link.fleet.GetProbes(request, timeout=CALL_TIMEOUT_S))
        known = probes_of(self._spec.clustering.probes)
        if answer.sha256 != probes_sha256(known):
            raise MalformedError(
                f"probes_sha256: the cloud asks {answer.sha256[:12]}, this client knows {probes_sha256(known)[:12]}; "
                "all nodes need the same version of ELSA"
            )
        strange = next((text for text in answer.probes if text not in known), None)
        if strange is not None:
            raise MalformedError(f"probes: {strange[:80]!r} is none of the run's")
        return Asked(probes=tuple(answer.probes), sha256=answer.sha256)

    def send(self, asked: Asked, made: Answers, version: int = 0) -> None:
        """Send the answers to what was asked, for the clusters that hold from `version`.

        Raises StaleRoundError if they come too late.
        """
        upload = fingerprint_to_proto(self._spec, made, asked.sha256)
        upload.run_id, upload.client_id, upload.version = self._run_id, self._link.node_id, version
        self._link.patiently(lambda: self._link.fleet.UploadFingerprint(upload, timeout=CALL_TIMEOUT_S))
        log.info("run %s: fingerprint of %d probes sent", self._run_id, len(asked.probes))


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
