"""How many bytes a step sends: the exact length of what codecs encode, reckoned without a tensor.

Every codec lays out the same bytes for each token (`elsa.wire.codec`), so its length is a number a token. Not counted
are calibrations, which travel a few times a session, and the few bytes a message that protobuf, gRPC and TLS add.
"""

from dataclasses import dataclass

from elsa.codecs import CodecsSpec
from elsa.parsing import Part
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.sizes import codec_to_proto

FLOAT32_BYTES = 4
SCALE_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes a token of each tensor of a step; see `CodecsSpec` for what they are."""

    h1: int
    h2: int
    dh2: int
    dh1: int

    @property
    def up(self) -> int:
        """Bytes a token from client to edge."""
        return self.h1 + self.dh2

    @property
    def down(self) -> int:
        """Bytes a token from edge to client."""
        return self.h2 + self.dh1


def traffic_of(codecs: CodecsSpec, width: int, *, wants_gradient: bool = True) -> Traffic:
    """What a run's codecs send for a model of `width`; no dL/dh1 where the bottom has nothing to train.

    Rows that an edge keeps (reuse) are counted as if they were sent whole. Raises SpecError naming the field where an
    expression does not fit the width.
    """
    sent = {
        name: bytes_per_token(getattr(codecs, name), width, f"codecs.{name}") for name in ("h1", "h2", "dh2", "dh1")
    }
    return Traffic(**sent if wants_gradient else {**sent, "dh1": 0})


def bytes_per_token(stages: tuple[Part, ...], width: int, field: str = "codec") -> int:
    """Length of one encoded token of `width` values under an expression's stages. Raises SpecError naming `field`."""
    columns, beside = width, 0
    for stage in codec_to_proto(stages, width, field).stages:
        match stage.WhichOneof("stage"):
            case "subspace":
                columns = stage.subspace.k
            case "sketch":
                columns = stage.sketch.rows * stage.sketch.buckets
            case "topk":
                beside += _places_bytes(columns, stage.topk.kept)
                columns = stage.topk.kept
            case _:
                return beside + _rounded_bytes(stage, columns)
    return beside + FLOAT32_BYTES * columns


def _places_bytes(columns: int, kept: int) -> int:
    """A bitmap of the columns, or an int32 for each that is kept, whichever is shorter."""
    return min((columns + 7) // 8, 4 * kept)


def _rounded_bytes(stage: pb.CodecStage, columns: int) -> int:
    match stage.WhichOneof("stage"):
        case "bf16":
            return 2 * columns
        case "int8":
            return SCALE_BYTES + columns
        case "int4":
            return SCALE_BYTES + columns // 2
        case other:
            raise ValueError(f"the length of {other} is not known here; add it beside its codec")
