"""How what people write is read: pydantic models whose faults become one line with field, bound and remedy.

`Part` is the base of every piece of a specification; `parse` is the door through which raw values come in.
"""

import reprlib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

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


def describe(error: ValidationError, within: str = "") -> str:
    """A pydantic error on one line: `field: what is wrong (got value)`, joined by semicolons.

    Args:
        within: what the fields belong to, said before each.
    """
    faults = error.errors(include_url=False)
    lines = [_fault(item, within) for item in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        lines.append(f"and {len(faults) - MOST_FAULTS} more")
    return "; ".join(lines)


def _fault(item: ErrorDetails, within: str) -> str:
    field = " ".join(filter(None, [within, ".".join(f"{part!s:.80}" for part in item["loc"])]))
    if item["type"] == "value_error":  # a text of ours, which says what it needs to
        said = item["msg"].removeprefix("Value error, ")
    elif item["type"] == "missing":
        said = "missing; it has no default"
    elif item["type"] == "extra_forbidden":
        said = f"unknown field; check its spelling (got {reprlib.repr(item['input']):.100})"
    else:
        said = f"{item['msg']} (got {reprlib.repr(item['input']):.100})"
        field = field or "the whole"
    return " ".join(f"{field}: {said}".removeprefix(": ").split())
