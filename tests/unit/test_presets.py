"""Presets: what a specification leaves open comes from its preset, and what it says stands."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.codecs import CodecsSpec, codec_text, parse_codec
from elsa.presets import PRESETS, PresetName, beneath
from elsa.protection import SsopSpec
from elsa.spec import DataSpec, LoraSpec, RunSpec, SplitSpec

LABELS = {"data": {"labels": ["no", "yes"]}}
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)
EXPRESSIONS = st.sampled_from(
    ["none", "bf16", "int4", "subspace(k=8) | int8", "sketch(rows=2)", "topk(fraction=0.1)"]
)
presets = pytest.mark.parametrize("name", get_args(PresetName))


def spec_of(**parts: object) -> RunSpec:
    return RunSpec.model_validate(LABELS | parts)


def test_every_preset_that_may_be_named_exists():
    assert set(PRESETS) == set(get_args(PresetName))


@presets
def test_yaml_reads_back_to_an_equal_spec_under_every_preset(name):
    spec = spec_of(preset=name)
    assert spec.preset == name
    assert RunSpec.from_yaml(spec.to_yaml()) == spec


@presets
@given(codecs=st.fixed_dictionaries({}, optional=dict.fromkeys(CodecsSpec.model_fields, EXPRESSIONS)))
def test_what_is_said_stands_and_the_rest_is_the_presets(name, codecs):
    spec = spec_of(preset=name, codecs=codecs)
    preset = PRESETS[name].get("codecs", {})
    for field in CodecsSpec.model_fields:
        assert getattr(spec.codecs, field) == parse_codec(codecs.get(field, preset.get(field, "none")))
    assert RunSpec.from_yaml(spec.to_yaml()) == spec


def test_without_a_preset_the_default_one_is_meant():
    assert spec_of() == spec_of(preset="default")
    assert spec_of().codecs != CodecsSpec()


def test_the_preset_none_sends_float32_and_protects_nothing():
    spec = spec_of(preset="none")
    assert spec.codecs == CodecsSpec()
    assert spec.privacy.ssop is spec.privacy.noise is spec.privacy.adversary is None


def test_a_part_of_the_papers_protection_may_be_changed_or_all_of_it_turned_off():
    changed = spec_of(preset="paper", privacy={"ssop": {"rank": 4}})
    assert changed.privacy.ssop == SsopSpec(rank=4, edge="blind", key="run")
    off = spec_of(preset="paper", privacy={"ssop": None})
    assert off.privacy.ssop is None
    assert codec_text(off.codecs.h1).startswith("sketch(rows=3, ratio=2.0, decode=median")
    for spec in (changed, off):
        assert RunSpec.from_yaml(spec.to_yaml()) == spec


@given(MAPPINGS)
def test_beneath_nothing_lies_the_preset_and_beneath_a_preset_nothing(values):
    assert beneath({}, values) == values
    assert beneath(values, {}) == values
    assert beneath(values, values) == values


@given(MAPPINGS, MAPPINGS)
def test_filling_in_changes_nothing_that_is_said_at_any_depth(raw, preset):
    def leaves(value, path=()):
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from leaves(inner, (*path, key))
        else:
            yield path, value

    filled = dict(leaves(beneath(raw, preset)))
    for path, value in leaves(raw):
        assert filled.get(path, {}) == value or value == {}  # an empty mapping is room for the preset
    assert beneath(beneath(raw, preset), preset) == beneath(raw, preset)
    assert set(beneath(raw, preset)) == set(raw) | set(preset)


def test_a_preset_fills_parts_that_were_given_as_models_too():
    spec = RunSpec(preset="thrifty", data=DataSpec(labels=("a", "b")), lora=LoraSpec(rank=4))
    assert spec.lora == LoraSpec(rank=4, bottom_adapters=False)
    assert spec == RunSpec.model_validate({"preset": "thrifty", "data": {"labels": ["a", "b"]}, "lora": {"rank": 4}})
    assert RunSpec(preset="private", data=DataSpec(labels=("a", "b")), split=SplitSpec(top=1)).split.bottom == 5


@presets
def test_the_documentation_says_what_the_preset_says(name):
    text = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text(encoding="utf-8")
    _, table = text.split("## Presets")
    (line,) = (row for row in table.splitlines() if row.startswith(f"| `{name}` | "))
    preset = PRESETS[name]
    said = preset.get("codecs", {}).get("h1", "none")
    assert f"`{said}`" in line.replace("\\|", "|")
    for end, blocks in preset.get("split", {}).items():
        assert f"{end} {blocks}" in line
    if noise := preset.get("privacy", {}).get("noise"):
        assert f"noise {noise['multiplier']}" in line
