"""The settings that an audit compares: a ladder of its own, or a user's file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, StringConstraints

from elsa.errors import SpecError
from elsa.parsing import Part, parse
from elsa.presets import PRESETS, PresetName
from elsa.spec import RunSpec

MOST = 100
GRADIENTS = "subspace(ratio=8) | int4"
CODED = {"h1": "subspace(ratio=1.5) | int4", "h2": "subspace(ratio=1.5) | int4", "dh2": GRADIENTS, "dh1": GRADIENTS}
DEEP, NARROW, BLUR = 5, 16, 0.1
"""Blocks before the cut, directions and noise of the combinations."""


class Setting(Part):
    """What differs from the run's specification.

    Codecs and privacy that are left out come from the preset, by default none at all; a split and what is trained,
    from the preset where it says so, else from the run.
    """

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
    preset: PresetName = Field("none", description="where codecs and privacy come from if not given")
    codecs: Mapping[str, str] = Field({}, description="as in a run's specification")
    privacy: Mapping[str, Any] = Field({}, description="as in a run's specification")
    bottom: int | None = Field(None, ge=1, le=10_000, description="blocks before the cut")
    top: int | None = Field(None, ge=0, le=10_000, description="blocks after the trunk")
    bottom_adapters: bool | None = Field(None, description="train those before the cut")

    def spec(self, base: RunSpec) -> RunSpec:
        """`base` under this setting, with one split for all. Raises SpecError naming the setting and the field."""
        raw = base.model_dump(mode="json", exclude={"codecs", "privacy", "reuse", "preset", "splits"})
        for part in ("split", "lora"):
            raw[part] |= PRESETS[self.preset].get(part, {})
        raw |= {"preset": self.preset} | ({"codecs": dict(self.codecs)} if self.codecs else {})
        raw |= {"privacy": dict(self.privacy)} if self.privacy else {}
        ends = {"bottom": self.bottom, "top": self.top}
        raw["split"] |= {end: blocks for end, blocks in ends.items() if blocks is not None}
        if self.bottom_adapters is not None:
            raw["lora"]["bottom_adapters"] = self.bottom_adapters
        return parse(RunSpec, raw, f"setting {self.name!r}")


class Settings(Part):
    """A file of settings."""

    settings: tuple[Setting, ...] = Field(min_length=1, max_length=MOST)


def read_settings(path: Path) -> tuple[Setting, ...]:
    """The settings in a YAML file: a list under `settings:`. Raises SpecError naming the file and the field."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SpecError(f"--settings {path}: cannot be read ({reason}); give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise SpecError(f"--settings {path}: not YAML: {' '.join(str(error).split())}") from error
    found = parse(Settings, raw, f"--settings {path}").settings
    names = [setting.name for setting in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"--settings {path}: {twice!r} is named twice; give each setting a name of its own")
    return found


def default_settings(base: RunSpec, blocks: int, *, quick: bool = False) -> tuple[Setting, ...]:
    """The audit's own ladder, from nothing to combinations.

    Args:
        base: the run: its split is where the ladder starts.
        blocks: of the whole model.
        quick: only a handful.
    """
    plain, deep = Setting(name="unprotected"), min(blocks - 1, DEEP)
    if quick:
        return (plain, Setting(name="preset default", preset="default"), _turned(16), _noisy("noise 0.2", 0.2))
    return (
        plain,
        *(Setting(name=f"preset {name}", preset=name) for name in _PRESETS),
        Setting(name="preset private", preset="private", bottom=deep),
        _turned(16),
        _turned(64),
        Setting(name="int4", codecs=dict.fromkeys(CODED, "int4")),
        _narrow(NARROW),
        _noisy("noise 0.2", 0.2),
        Setting(name="adversary", privacy={"adversary": {"weight": 0.1}}),
        *_deeper(deep),
    )


_PRESETS: Sequence[PresetName] = ("default", "thrifty", "paper")


def _turned(rank: int) -> Setting:
    return Setting(name=f"SS-OP blind, rank {rank}", privacy={"ssop": {"rank": rank, "edge": "blind"}})


def _narrow(k: int, *, privacy: Mapping[str, Any] | None = None, **more: Any) -> Setting:
    codecs, privacy = {**CODED, "h1": f"subspace(k={k}) | int4"}, {"public_calibration": True} | dict(privacy or {})
    return Setting(name=f"subspace {k}", codecs=codecs, privacy=privacy).model_copy(update=more)


def _noisy(name: str, level: float, **more: Any) -> Setting:
    return Setting(name=name, privacy={"noise": {"multiplier": level}}, **more)


def _deeper(bottom: int) -> Sequence[Setting]:
    """The cut as deep as `bottom`, nothing after the trunk but the head, alone and with what else helps."""
    there: dict[str, Any] = {"bottom": bottom, "top": 0}
    name, few = f"bottom {bottom}, top 0", f"subspace {NARROW}"
    return (
        Setting(name=name, **there),
        _noisy(f"{name}, noise {BLUR}", BLUR, **there),
        _narrow(NARROW, name=f"{name}, {few}", **there),
        _narrow(NARROW, name=f"{name}, {few}, bottom frozen", bottom_adapters=False, **there),
        _narrow(NARROW, name=f"{name}, {few}, adversary", privacy={"adversary": {"weight": 0.1}}, **there),
    )
