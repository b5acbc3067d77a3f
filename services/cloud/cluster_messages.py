"""Fingerprints, clusters and trust as messages."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.trust import Parts
from elsa.errors import MalformedError
from elsa.v1 import fleet_pb2, run_pb2
from elsa.v1.tensor_pb2 import DType, Tensor
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud.cluster_view import View
from services.cloud.convert import fitting, metrics_to_proto
from services.cloud.events import Clustered, Place, TrustChanged
from services.cloud.fingerprints import Upload
from services.cloud.records import Standing


def upload_from_proto(request: fleet_pb2.UploadFingerprintRequest) -> Upload:
    """A fingerprint, its values not yet checked. Raises MalformedError for what is no matrix of float32."""
    said = request.probabilities if request.HasField("probabilities") else None
    return Upload(
        run_id=request.run_id,
        client_id=request.client_id,
        version=request.version,
        probes_sha256=request.probes_sha256,
        embeddings=_matrix(request.embeddings, "embeddings"),
        probabilities=None if said is None else _matrix(said, "probabilities"),
    )


def _matrix(tensor: Tensor, field: str) -> NDArray[np.float32]:
    if tensor.dtype != DType.DTYPE_FLOAT32:
        raise MalformedError(f"{field}.dtype: {tensor.dtype}; it must be {DType.DTYPE_FLOAT32} (float32)")
    shape = list(tensor.shape)
    if len(shape) != 2 or not all(1 <= size < 2**31 for size in shape) or len(tensor.data) != 4 * shape[0] * shape[1]:
        raise MalformedError(
            f"{field}: shape {shape[:4]} with {len(tensor.data)} bytes; it must be (probes, width) with 4 bytes an "
            "element"
        )
    return np.frombuffer(tensor.data, "<f4").reshape(shape)


def standings_to_proto(standings: Sequence[Standing]) -> list[fleet_pb2.ClientStanding]:
    """How clients count, for their edge: one that is set aside with no trust."""
    return [
        fleet_pb2.ClientStanding(cluster=kept.cluster, trust=0.0 if kept.set_aside else kept.trust)
        for kept in standings
    ]


def clustered_to_proto(body: Clustered, besides: int = 0) -> run_pb2.Clustered:
    """A decision; of more places than go into one message with `besides` bytes, the first, and the detail says so."""
    places = fitting([_place(place) for place in body.places], besides)
    message = run_pb2.Clustered(version=body.version, detail=body.detail, clusters=body.clusters, places=places)
    if len(places) < len(body.places):
        message.detail += f"; the first {len(places)} of {len(body.places)} clients are shown"
    return message


def trust_changed_to_proto(body: TrustChanged) -> run_pb2.TrustChanged:
    """A change of one client's trust."""
    return run_pb2.TrustChanged(
        client_id=body.client_id,
        trust=body.trust,
        set_aside=body.set_aside,
        detail=body.detail,
        parts=_parts(body.parts),
    )


def clusters_to_proto(view: View) -> run_pb2.GetClustersResponse:
    """Who learns with whom; divergences, (clients, clients), where they go into the same message."""
    message = run_pb2.GetClustersResponse(
        scores=[
            run_pb2.ClusterScore(
                cluster=kept.cluster,
                evaluation=metrics_to_proto(kept.whole),
                cluster_evaluation=metrics_to_proto(kept.own),
            )
            for kept in view.scores
        ],
    )
    message.clustered.CopyFrom(clustered_to_proto(view.clustered, message.ByteSize()))
    apart = view.divergence
    if apart is not None and message.ByteSize() + apart.nbytes + 1024 <= MAX_MESSAGE_BYTES:
        data = apart.astype("<f4").tobytes()
        message.divergence.CopyFrom(Tensor(dtype=DType.DTYPE_FLOAT32, shape=apart.shape, data=data))
    return message


def _place(place: Place) -> run_pb2.ClientPlace:
    return run_pb2.ClientPlace(
        client_id=place.client_id,
        cluster=place.cluster,
        edge_id=place.edge_id,
        trust=place.trust,
        latency_ms=place.latency_ms,
        parts=_parts(place.parts),
        detail=place.detail,
        set_aside=place.set_aside,
    )


def _parts(parts: Parts | None) -> run_pb2.TrustParts | None:
    if parts is None:
        return None
    return run_pb2.TrustParts(
        consistency=parts.consistency,
        repeatability=parts.repeatability,
        originality=parts.originality,
        update=parts.direction * parts.norm,
    )
