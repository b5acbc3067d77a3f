"""From what people write to what travels: ratios and fractions of a width become whole numbers of columns.

No torch here: the cloud reckons with these sizes too.
"""

from math import ceil

from elsa.codecs import Bf16, Int4, Int8, Sketch, Subspace, TopK
from elsa.errors import SpecError
from elsa.parsing import Part
from elsa.v1 import tensor_pb2 as pb

_DECODES = {"median": pb.SKETCH_DECODE_MEDIAN, "mmse": pb.SKETCH_DECODE_MMSE}
_ROUNDINGS = {
    Bf16: pb.CodecStage(bf16=pb.Bfloat16Codec()),
    Int8: pb.CodecStage(int8=pb.Int8Codec()),
    Int4: pb.CodecStage(int4=pb.Int4Codec()),
}


def codec_to_proto(stages: tuple[Part, ...], width: int, field: str) -> pb.CodecSpec:
    """The stages for `width` columns, as they travel.

    Numbers that follow from a ratio or a fraction are made even where int4 is the next stage. Raises SpecError naming
    `field`, the value and the bound where a stage does not fit.
    """
    message, columns = pb.CodecSpec(), width
    for index, stage in enumerate(stages):
        even = any(isinstance(following, Int4) for following in stages[index + 1 : index + 2])
        sized, columns = _sized(stage, columns, even, f"{field}.{stage.name}")  # type: ignore[attr-defined]
        message.stages.append(sized)
    return message


def needs_even(columns: int) -> str | None:
    """What is wrong with int4 on `columns` columns, if anything."""
    return f"int4 needs an even number of columns; here are {columns}" if columns % 2 else None


def _sized(stage: Part, columns: int, even: bool, field: str) -> tuple[pb.CodecStage, int]:
    """A stage as it travels and the columns that it leaves."""
    match stage:
        case Subspace():
            k = _coordinates(stage, columns, even, field)
            return pb.CodecStage(subspace=pb.SubspaceCodec(k=k)), k
        case Sketch():
            buckets = _buckets(stage, columns, even, field)
            decode, rows = _DECODES[stage.decode], stage.rows
            sketch = pb.SketchCodec(rows=rows, buckets=buckets, seed=stage.seed, decode=decode)
            return pb.CodecStage(sketch=sketch), rows * buckets
        case TopK():
            kept = ceil(stage.fraction * columns)
            kept = _even_up(kept, columns) if even else kept
            return pb.CodecStage(topk=pb.TopKCodec(kept=kept)), kept
        case Int4() if fault := needs_even(columns):
            raise SpecError(f"{field}: {fault}")
        case _:
            return _ROUNDINGS[type(stage)], columns


def _coordinates(stage: Subspace, columns: int, even: bool, field: str) -> int:
    if stage.k is not None:
        if stage.k > columns:
            raise SpecError(f"{field}.k: {stage.k} is more than the {columns} columns that there are")
        return stage.k
    share = columns / (stage.ratio or 1.0)
    return _even_up(2 * round(share / 2), columns) if even else max(1, round(share))


def _buckets(stage: Sketch, columns: int, even: bool, field: str) -> int:
    buckets = int(columns / (stage.ratio * stage.rows))
    if even and stage.rows % 2:
        buckets -= buckets % 2
    if buckets < 1:
        raise SpecError(
            f"{field}.ratio: {stage.ratio} leaves no bucket for each of {stage.rows} rows in {columns} columns; "
            f"rows x ratio may be at most {columns / (2 if even and stage.rows % 2 else 1):g}"
        )
    return buckets


def _even_up(number: int, most: int) -> int:
    """The next even number, at least 2 and at most `most`, or 1 where `most` is."""
    return max(min(number + number % 2, most - most % 2), min(2, most))
