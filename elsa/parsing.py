"""How what people write is read: pydantic models whose faults become one line with field, bound and remedy.

`Part` is the base of every piece of a specification; `parse` is the door through which raw values come in.
"""

import re
import reprlib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from elsa.errors import SpecError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Model = TypeVar("Model", bound=BaseModel)

MOST_FAULTS = 5
"""How many faults of one spec are told."""


_CREDENTIALS = re.compile(r"(?<=://)\S*@")
_PARAMETER = re.compile(r"([?&;](?:[a-z_]*(?:password|passwd|secret|token|key))=)[^&;\s'\"]*", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^@\s]*:\S*@")
HIDDEN = "(hidden)"


def masked(text: str) -> str:
    """`text` without what URLs in it say before an @, and as passwords, secrets, tokens or keys."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(f"{HIDDEN}@", text))


def has_password(text: str) -> bool:
    """Whether a URL in it says a password."""
    return bool(_PASSWORD.search(text) or _PARAMETER.search(text))


class _Shown(reprlib.Repr):
    """How values that people wrote are shown in errors: short, and without passwords."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(masked(x), level)


_SHOWN = _Shown()


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
        said = f"unknown field; check its spelling (got {_SHOWN.repr(item['input']):.100})"
    else:
        said = f"{item['msg']} (got {_SHOWN.repr(item['input']):.100})"
        field = field or "the whole"
    return " ".join(f"{field}: {said}".removeprefix(": ").split())
