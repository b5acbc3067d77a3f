"""The settings that an audit compares: a ladder of its own, or a user's file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, StringConstraints

from elsa.errors import SpecError
from elsa.parsing import Part, parse
from elsa.presets import PresetName
from elsa.spec import RunSpec

MOST = 100
GRADIENTS = "subspace(ratio=8) | int4"
CODED = {"h1": "subspace(ratio=1.5) | int4", "h2": "subspace(ratio=1.5) | int4", "dh2": GRADIENTS, "dh1": GRADIENTS}
NOISES = (0.1, 0.2, 0.4)


class Setting(Part):
    """What differs from the run's specification; what is left out comes from the preset, by default none at all."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
    preset: PresetName = Field("none", description="where codecs and privacy come from if not given")
    codecs: Mapping[str, str] = Field({}, description="as in a run's specification")
    privacy: Mapping[str, Any] = Field({}, description="as in a run's specification")
    bottom: int | None = Field(None, ge=1, le=10_000, description="blocks before the cut; as in the run if left out")
    top: int | None = Field(None, ge=0, le=10_000, description="blocks after the trunk; as in the run if left out")
    bottom_adapters: bool | None = Field(None, description="train them; as in the run if left out")

    def spec(self, base: RunSpec) -> RunSpec:
        """`base` under this setting, with one split for all. Raises SpecError naming the setting and the field."""
        raw = base.model_dump(mode="json", exclude={"codecs", "privacy", "reuse", "preset", "splits"})
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
    here, deepest = base.split.bottom, blocks - base.split.top - 1
    plain = Setting(name="unprotected")
    noises = [_noisy(f"noise {level}", level) for level in NOISES]
    blind = [_turned(rank) for rank in (4, 16, 64)]
    if quick:
        return (plain, Setting(name="preset default", preset="default"), blind[1], noises[1])
    deeper = [Setting(name=f"bottom {depth}", bottom=depth) for depth in range(here + 1, min(deepest, 4) + 1)]
    return (
        plain,
        *(Setting(name=f"preset {name}", preset=name) for name in _PRESETS),
        *blind,
        Setting(name="SS-OP keyed, rank 16", privacy={"ssop": {"rank": 16, "edge": "keyed"}}),
        Setting(name="int4", codecs=dict.fromkeys(CODED, "int4")),
        *(_narrow(k) for k in (32, 8)),
        *noises,
        Setting(name="adversary", privacy={"adversary": {"weight": 0.1}}),
        *deeper,
        *_combinations(min(deepest, 4)),
    )


_PRESETS: Sequence[PresetName] = ("default", "thrifty", "private", "paper")


def _turned(rank: int) -> Setting:
    return Setting(name=f"SS-OP blind, rank {rank}", privacy={"ssop": {"rank": rank, "edge": "blind"}})


def _narrow(k: int, **more: Any) -> Setting:
    codecs, privacy = {**CODED, "h1": f"subspace(k={k}) | int4"}, {"public_calibration": True}
    return Setting(name=f"subspace {k}", codecs=codecs, privacy=privacy).model_copy(update=more)


def _noisy(name: str, level: float, bottom: int | None = None) -> Setting:
    return Setting(name=name, bottom=bottom, privacy={"noise": {"multiplier": level}})


def _combinations(deep: int) -> Sequence[Setting]:
    adversary = {"adversary": {"weight": 0.1}, "public_calibration": True}
    blurred = []
    for k, level in ((24, 0.05), (16, 0.1)):
        privacy = {"noise": {"multiplier": level}, "public_calibration": True}
        blurred.append(_narrow(k, name=f"bottom {deep}, subspace {k}, noise {level}", bottom=deep, privacy=privacy))
    return (
        _narrow(16, name=f"bottom {deep}, subspace 16", bottom=deep),
        _narrow(8, name=f"bottom {deep}, subspace 8", bottom=deep),
        _narrow(16, name=f"bottom {deep} frozen, subspace 16", bottom=deep, bottom_adapters=False),
        *blurred,
        _narrow(16, name=f"bottom {deep}, subspace 16, adversary", bottom=deep, privacy=adversary),
        _noisy(f"bottom {deep}, noise 0.2", 0.2, deep),
        Setting(name=f"bottom {deep}, adversary", bottom=deep, privacy={"adversary": {"weight": 0.1}}),
    )
