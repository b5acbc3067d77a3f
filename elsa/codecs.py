"""How people name a codec: expressions such as `subspace(ratio=2) | int4`, one for each tensor of a step.

An expression is stages joined by `|`, applied left to right: any number of stages that narrow a token's values, and
at most one, the last, that rounds what is left. `elsa.wire.codec` builds the codec that an expression names once the
model's width is known; docs/codecs.md says what each does and costs.
"""

import re
import reprlib
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from elsa.parsing import Part, describe

MOST_STAGES = 4
MOST_CHARACTERS = 500
"""Of an expression."""
KNOWN = ("none", "bf16", "int8", "int4", "sketch", "subspace", "topk")


class Bf16(Part):
    """Rounds to bfloat16."""

    name: Literal["bf16"] = "bf16"


class Int8(Part):
    """Rounds to 8 bits, one scale a token."""

    name: Literal["int8"] = "int8"


class Int4(Part):
    """Rounds to 4 bits, one scale a token."""

    name: Literal["int4"] = "int4"


class Sketch(Part):
    """Count sketch: `rows` hash rows that together have width / `ratio` buckets."""

    name: Literal["sketch"] = "sketch"
    rows: int = Field(3, ge=1, le=16)
    ratio: float = Field(2.0, ge=1, le=65536)
    decode: Literal["median", "mmse"] = "median"
    seed: int = Field(0, ge=0, lt=2**63)


class Subspace(Part):
    """Coordinates on the directions that carry most energy: `k` of them, or width / `ratio`."""

    name: Literal["subspace"] = "subspace"
    k: int | None = Field(None, ge=1, le=65536)
    ratio: float | None = Field(None, ge=1, le=65536)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.k is None) == (self.ratio is None):
            raise ValueError("takes k or ratio, one of them: subspace(k=96) or subspace(ratio=4)")
        return self


class TopK(Part):
    """The `fraction` of a token's values that are largest; what is left out is added to the row's next ones."""

    name: Literal["topk"] = "topk"
    fraction: float = Field(gt=0, le=1)


Stage = Annotated[Bf16 | Int8 | Int4 | Sketch | Subspace | TopK, Field(discriminator="name")]
ROUNDING = (Bf16, Int8, Int4)
CALIBRATED = (Sketch, Subspace)
_KINDS: dict[str, type[Bf16 | Int8 | Int4 | Sketch | Subspace | TopK]] = {
    "bf16": Bf16,
    "int8": Int8,
    "int4": Int4,
    "sketch": Sketch,
    "subspace": Subspace,
    "topk": TopK,
}
_STAGE = re.compile(r"([A-Za-z0-9_-]+)\s*(?:\(([^()]*)\))?")


def parse_codec(text: str) -> tuple[Stage, ...]:
    """The stages of an expression; `none` and the empty one have no stage. Raises ValueError saying what is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"an expression of {len(text)} characters; at most {MOST_CHARACTERS}")
    if text.strip() in ("", "none"):
        return ()
    return _in_order(tuple(_stage(part) for part in text.split("|")))


def codec_text(stages: tuple[Stage, ...]) -> str:
    """The expression that `parse_codec` reads back to these stages."""
    return " | ".join(map(_stage_text, stages)) or "none"


def _read(raw: Any) -> Any:
    """An expression's stages; stages as they are, to be checked by pydantic."""
    if isinstance(raw, str):
        return parse_codec(raw)
    if not isinstance(raw, tuple):
        raise ValueError(f"an expression is wanted, such as 'subspace(ratio=2) | int4' (got {reprlib.repr(raw)})")
    return raw


def _in_order(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """`stages`, if they may follow one another so. Raises ValueError."""
    if len(stages) > MOST_STAGES:
        raise ValueError(f"{len(stages)} stages; at most {MOST_STAGES}")
    for stage in stages[:-1]:
        if isinstance(stage, ROUNDING):
            raise ValueError(f"{stage.name} rounds and must come last")
    for stage in stages[1:]:
        if isinstance(stage, CALIBRATED):
            raise ValueError(f"{stage.name} is calibrated on the tensor itself and must come first")
    return stages


CodecSpec = Annotated[
    tuple[Stage, ...],
    BeforeValidator(_read),
    AfterValidator(_in_order),
    PlainSerializer(codec_text, return_type=str, when_used="always"),
]


class CodecsSpec(Part):
    """The codec of each tensor of a step."""

    h1: CodecSpec = Field((), description="activations, client to edge")
    h2: CodecSpec = Field((), description="activations, edge to client")
    dh2: CodecSpec = Field((), description="gradient of h2, client to edge")
    dh1: CodecSpec = Field((), description="gradient of h1, edge to client")
    change: CodecSpec = Field((), description="difference of h1 to what the edge holds of the row, with reuse")


def _stage(text: str) -> Stage:
    match = _STAGE.fullmatch(text.strip())
    if match is None:
        said = reprlib.repr(text.strip())
        raise ValueError(f"{said} is not a stage; write name or name(parameter=value), joined by |")
    name, inside = match.group(1), match.group(2) or ""
    if name == "none":
        raise ValueError("none stands alone; leave it out of an expression with other stages")
    if name not in _KINDS:
        raise ValueError(f"no codec {reprlib.repr(name)}; there are {', '.join(KNOWN)}")
    try:
        return _KINDS[name].model_validate(_arguments(name, inside))
    except ValidationError as error:
        raise ValueError(describe(error, within=name)) from error


def _arguments(name: str, inside: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in inside.split(",") if inside.strip() else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or "=" in value:
            raise ValueError(
                f"{name}: {reprlib.repr(part.strip())} is not parameter=value; commas stand between them"
            )
        if key in found or key == "name":
            raise ValueError(f"{name} {key}: " + ("given twice" if key in found else "unknown field"))
        found[key] = value
    return found


def _stage_text(stage: Stage) -> str:
    given = {key: value for key, value in stage if key != "name" and value is not None}
    inside = ", ".join(f"{key}={value}" for key, value in given.items())
    return f"{stage.name}({inside})" if inside else stage.name
