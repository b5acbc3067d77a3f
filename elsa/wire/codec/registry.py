"""Which codecs there are, and how a `CodecSpec` names one.

Sizes that an expression leaves to the width are settled by the side that opens a stream (sizes.py); what travels has
whole numbers only, and each is checked here before anything is built from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from elsa.codecs import KNOWN, MOST_STAGES, CodecsSpec
from elsa.errors import MalformedError
from elsa.parsing import Part
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.base import Codec
from elsa.wire.codec.bf16 import Bfloat16Rounding
from elsa.wire.codec.hashes import Hashing
from elsa.wire.codec.int4 import Int4Rounding
from elsa.wire.codec.int8 import Int8Rounding
from elsa.wire.codec.none import NoneRounding
from elsa.wire.codec.pipeline import Pipeline
from elsa.wire.codec.sizes import codec_to_proto, needs_even
from elsa.wire.codec.sketch import MedianSketch, MmseSketch
from elsa.wire.codec.stages import Calibrated, Narrowing, Rounding
from elsa.wire.codec.subspace import SubspaceStage
from elsa.wire.codec.topk import TopKStage

MOST_ROWS = 16
"""Hash rows of a sketch."""


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
    fields = CodecsSpec.model_fields
    return pb.CodecSet(**{name: codec_to_proto(getattr(spec, name), width, f"codecs.{name}") for name in fields})


def codec_set_from_proto(message: pb.CodecSet, width: int) -> Codecs:
    """The codecs that a message names, for `width` columns. Raises MalformedError naming field and bound."""
    fields = CodecsSpec.model_fields
    return Codecs(**{name: codec_from_proto(getattr(message, name), width, f"codecs.{name}") for name in fields})


def codec_of(stages: tuple[Part, ...], width: int) -> Codec:
    """The codec of an expression's stages for `width` columns. Raises SpecError where they do not fit."""
    return codec_from_proto(codec_to_proto(stages, width, "codec"), width, "codec")


def codec_from_proto(message: pb.CodecSpec, width: int, field: str) -> Codec:
    """The codec that a message names, for `width` columns. Raises MalformedError naming `field` and the bound."""
    kinds = _kinds(message, field)
    calibrated: Calibrated | None = None
    narrowing: list[Narrowing] = []
    rounding: Rounding | None = None
    columns = width
    for index, (kind, stage) in enumerate(zip(kinds, message.stages, strict=True)):
        where = f"{field}.stages[{index}].{kind}"
        if kind in CALIBRATED:
            calibrated = CALIBRATED[kind](stage, columns, where)
            columns = calibrated.columns
        elif kind in NARROWING:
            narrowing.append(NARROWING[kind](stage, columns, where))
            columns = narrowing[-1].columns
        else:
            rounding = ROUNDING[kind](columns, where)
    last = rounding or NoneRounding(columns)
    return Pipeline(width=width, calibrated=calibrated, narrowing=narrowing, rounding=last)


def _kinds(message: pb.CodecSpec, field: str) -> list[str]:
    """The names of the stages. Raises MalformedError for too many, an unknown one, or one out of place."""
    if len(message.stages) > MOST_STAGES:
        raise MalformedError(f"{field}.stages: {len(message.stages)} stages; at most {MOST_STAGES}")
    kinds: list[str] = []
    for index, stage in enumerate(message.stages):
        kind, where = stage.WhichOneof("stage"), f"{field}.stages[{index}]"
        if kind is None:
            raise MalformedError(f"{where}: unknown codec; known here: {', '.join(KNOWN)}")
        if kind in CALIBRATED and index:
            raise MalformedError(f"{where}: {kind} is calibrated and must be the first")
        if kinds and kinds[-1] in ROUNDING:
            raise MalformedError(f"{where}: follows {kinds[-1]}, which rounds and must be the last")
        kinds.append(kind)
    return kinds


def _subspace(stage: pb.CodecStage, columns: int, where: str) -> Calibrated:
    return SubspaceStage(columns, _within(stage.subspace.k, columns, f"{where}.k"))


def _sketch(stage: pb.CodecStage, columns: int, where: str) -> Calibrated:
    sketch = stage.sketch
    rows = _within(sketch.rows, MOST_ROWS, f"{where}.rows")
    if rows > columns:
        raise MalformedError(f"{where}.rows: {rows}, may not exceed the {columns} columns")
    buckets = _within(sketch.buckets, columns // rows, f"{where}.buckets")
    if sketch.decode not in SKETCHES:
        raise MalformedError(f"{where}.decode: {sketch.decode}, must be median (1) or mmse (2)")
    decode, make = SKETCHES[sketch.decode]
    hashing = Hashing(width=columns, rows=rows, buckets=buckets, seed=sketch.seed)
    return make(hashing, f"sketch(rows={rows}, buckets={buckets}, decode={decode}, seed={sketch.seed})")


def _topk(stage: pb.CodecStage, columns: int, where: str) -> Narrowing:
    return TopKStage(columns, _within(stage.topk.kept, columns, f"{where}.kept"))


def _bf16(columns: int, where: str) -> Rounding:
    return Bfloat16Rounding(columns)


def _int8(columns: int, where: str) -> Rounding:
    return Int8Rounding(columns)


def _int4(columns: int, where: str) -> Rounding:
    if fault := needs_even(columns):
        raise MalformedError(f"{where}: {fault}")
    return Int4Rounding(columns)


def _within(number: int, most: int, where: str) -> int:
    if not 1 <= number <= most:
        raise MalformedError(f"{where}: {number}, must be 1 to {most}")
    return number


SKETCHES: Mapping[int, tuple[str, Callable[[Hashing, str], Calibrated]]] = {
    pb.SKETCH_DECODE_MEDIAN: ("median", MedianSketch),
    pb.SKETCH_DECODE_MMSE: ("mmse", MmseSketch),
}
CALIBRATED: Mapping[str, Callable[[pb.CodecStage, int, str], Calibrated]] = {"subspace": _subspace, "sketch": _sketch}
NARROWING: Mapping[str, Callable[[pb.CodecStage, int, str], Narrowing]] = {"topk": _topk}
ROUNDING: Mapping[str, Callable[[int, str], Rounding]] = {"bf16": _bf16, "int8": _int8, "int4": _int4}
