"""Which codecs there are, and how a `CodecSpec` names one."""

from dataclasses import dataclass

from elsa.errors import MalformedError
from elsa.spec import CodecName, CodecsSpec
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.base import Codec
from elsa.wire.codec.bf16 import Bfloat16Codec
from elsa.wire.codec.none import NoneCodec

KNOWN: dict[CodecName, type[Codec]] = {"none": NoneCodec, "bf16": Bfloat16Codec}


@dataclass(frozen=True, kw_only=True)
class Codecs:
    """The codec of each of the four tensors of a step."""

    h1: Codec
    h2: Codec
    dh2: Codec
    dh1: Codec


def codec_set_to_proto(spec: CodecsSpec) -> pb.CodecSet:
    """The names of a run specification as the message that opens a stream."""
    return pb.CodecSet(
        h1=_codec_to_proto(spec.h1),
        h2=_codec_to_proto(spec.h2),
        dh2=_codec_to_proto(spec.dh2),
        dh1=_codec_to_proto(spec.dh1),
    )


def codec_set_from_proto(message: pb.CodecSet) -> Codecs:
    """The codecs that a message names. Raises MalformedError for a stage that is not known here."""
    return Codecs(
        h1=_codec_from_proto(message.h1, "codecs.h1"),
        h2=_codec_from_proto(message.h2, "codecs.h2"),
        dh2=_codec_from_proto(message.dh2, "codecs.dh2"),
        dh1=_codec_from_proto(message.dh1, "codecs.dh1"),
    )


def _codec_to_proto(name: CodecName) -> pb.CodecSpec:
    stages: dict[CodecName, list[pb.CodecStage]] = {"none": [], "bf16": [pb.CodecStage(bf16=pb.Bfloat16Codec())]}
    return pb.CodecSpec(stages=stages[name])


def _codec_from_proto(message: pb.CodecSpec, field: str) -> Codec:
    if not message.stages:
        return NoneCodec()
    if len(message.stages) > 1:
        raise MalformedError(f"{field}.stages: {len(message.stages)} stages; codecs here have one")
    if message.stages[0].WhichOneof("stage") != "bf16":
        raise MalformedError(f"{field}.stages[0]: unknown codec; known here: {', '.join(KNOWN)}")
    return Bfloat16Codec()
