"""How what people write is read: pydantic models whose faults become one line with field, bound and remedy.

`Part` is the base of every piece of a specification; `parse` is the door through which raw values come in.
"""

import reprlib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from elsa.errors import SpecError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Model = TypeVar("Model", bound=BaseModel)

MOST_FAULTS = 5
"""How many faults of one spec are told."""


class Part(BaseModel):
    """A part of a specification: frozen, finite, and without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(model: type[Model], raw: Any, origin: str) -> Model:
    """`raw` as a `model`; any fault as one SpecError line that names the origin, each field and its bound."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{origin}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """A pydantic error on one line: `field: what is wrong (got value)`, joined by semicolons."""
    lines, faults = [], error.errors(include_url=False)
    for item in faults[:MOST_FAULTS]:
        field = ".".join(f"{part!s:.80}" for part in item["loc"]) or "the whole"
        got = "" if item["type"] in ("missing", "value_error") else f" (got {reprlib.repr(item['input']):.100})"
        hint = "unknown field; check its spelling" if item["type"] == "extra_forbidden" else item["msg"]
        lines.append(" ".join(f"{field}: {hint}{got}".split()))
    if len(faults) > MOST_FAULTS:
        lines.append(f"and {len(faults) - MOST_FAULTS} more")
    return "; ".join(lines)
