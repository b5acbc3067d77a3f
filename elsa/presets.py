"""Named choices of codecs and protection: what a specification does not say comes from its preset.

The figures behind each are in docs/codecs.md, with the command that measures them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

PresetName = Literal["default", "thrifty", "private", "paper", "none"]

_SKETCH = "sketch(rows=3, ratio=2, decode=median)"


def _codecs(activations: str, gradients: str) -> dict[str, str]:
    return {"h1": activations, "h2": activations, "dh2": gradients, "dh1": gradients, "change": gradients}


PRESETS: Mapping[PresetName, Mapping[str, Any]] = {
    "none": {},
    "default": {"codecs": _codecs("subspace(ratio=1.5) | int4", "subspace(ratio=8) | int4")},
    "thrifty": {
        "codecs": {
            **_codecs("subspace(ratio=2) | int4", "subspace(ratio=16) | int4"),
            "h2": "subspace(ratio=3.5) | int4",
        },
        "lora": {"bottom_adapters": False},
        "reuse": {"enabled": True},
    },
    "private": {
        "split": {"bottom": 5, "top": 0},
        "codecs": {
            **_codecs("subspace(ratio=1.5) | int4", "subspace(ratio=8) | int4"),
            "h1": "subspace(ratio=24) | int4",
        },
        "privacy": {"noise": {"clip": 1.0, "multiplier": 0.1}, "public_calibration": True},
        "clustering": {"method": "none"},
    },
    "paper": {
        "codecs": _codecs(_SKETCH, _SKETCH),
        "privacy": {"ssop": {"rank": 16, "edge": "blind", "key": "run"}},
    },
}


def beneath(raw: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with what it leaves open filled in from `preset`, mapping by mapping; of models, what was given."""
    filled = dict(raw)
    for key, value in preset.items():
        given = raw.get(key)
        if isinstance(given, BaseModel):
            given = given.model_dump(exclude_unset=True)
        if key not in raw:
            filled[key] = value
        elif isinstance(value, Mapping) and isinstance(given, Mapping):
            filled[key] = beneath(given, value)
    return filled
