"""Which codecs there are, and how a `CodecSpec` names one."""

from dataclasses import dataclass

from elsa.codecs import CodecsSpec
from elsa.errors import MalformedError
from elsa.parsing import Part
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.base import Codec
from elsa.wire.codec.bf16 import Bfloat16Codec
from elsa.wire.codec.none import NoneCodec

KNOWN: dict[str, type[Codec]] = {"none": NoneCodec, "bf16": Bfloat16Codec}


@dataclass(frozen=True, kw_only=True)
class Codecs:
    """The codec of each tensor of a step."""

    h1: Codec
    h2: Codec
    dh2: Codec
    dh1: Codec
    change: Codec


def codec_set_to_proto(spec: CodecsSpec, width: int) -> pb.CodecSet:
    """The codecs of a run specification for a model of `width`, as the message that opens a stream.

    Raises SpecError naming the field where an expression does not fit the width.
    """
    return pb.CodecSet(**{name: _codec_to_proto(getattr(spec, name), width) for name in CodecsSpec.model_fields})


def codec_set_from_proto(message: pb.CodecSet, width: int) -> Codecs:
    """The codecs that a message names, for `width` columns. Raises MalformedError naming field and bound."""
    fields = CodecsSpec.model_fields
    return Codecs(**{name: _codec_from_proto(getattr(message, name), f"codecs.{name}") for name in fields})


def _codec_to_proto(stages: tuple[Part, ...], width: int) -> pb.CodecSpec:
    return pb.CodecSpec(stages=[pb.CodecStage(bf16=pb.Bfloat16Codec()) for _ in stages])


def _codec_from_proto(message: pb.CodecSpec, field: str) -> Codec:
    if not message.stages:
        return NoneCodec()
    if len(message.stages) > 1:
        raise MalformedError(f"{field}.stages: {len(message.stages)} stages; codecs here have one")
    if message.stages[0].WhichOneof("stage") != "bf16":
        raise MalformedError(f"{field}.stages[0]: unknown codec; known here: {', '.join(KNOWN)}")
    return Bfloat16Codec()
