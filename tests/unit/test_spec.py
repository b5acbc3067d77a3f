"""What a person writes as a run specification, and what is said when it cannot be used."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from elsa.errors import SpecError, SplitError
from elsa.parsing import parse
from elsa.spec import RunSpec, Split, SplitSpec

LABELS = {"data": {"labels": ["no", "yes"]}}


def test_yaml_reads_back_to_an_equal_spec() -> None:
    spec = RunSpec.from_yaml(
        "data: {labels: [a, b]}\nsplits: {weak: {bottom: 2, top: 0}}\ntraining: {optimizer: {learning_rate: 0.01}}"
    )
    assert RunSpec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{data: {labels: [a, b]}, traning: {rounds: 2}}", "traning: unknown field"),
        (
            "{data: {labels: [a, b]}, lora: {rank: 0}}",
            "lora.rank: Input should be greater than or equal to 1 (got 0)",
        ),
        ("{data: {labels: [a]}}", "data.labels needs at least two different label names"),
        ("{data: {labels: [a, b]}, training: {batch: 2, micro_batches: 3}}", "micro_batches 3 is more than batch 2"),
        ("{model: {task: causal-lm}, data: {prompt: q}}", "data.prompt and data.response go together"),
        (
            "{data: {labels: [a, b]}, codecs: {h1: zip}}",
            "run.yaml: codecs.h1: no codec 'zip'; there are none, bf16, int8",
        ),
        (
            "{data: {labels: [a, b]}, codecs: {h1: sketch(rows=0)}}",
            "run.yaml: codecs.h1: sketch rows: Input should be greater than or equal to 1 (got '0')",
        ),
        ("{data: {labels: [a, b]}, codecs: {dh1: 4}}", "codecs.dh1: an expression is wanted, such as"),
        ("{data: {labels: [a, b]}, preset: best}", "preset: Input should be 'default', 'thrifty'"),
        ("{data: {labels: [a, b]}, split: {bottom: 0}}", "split.bottom: Input should be greater than or equal to 1"),
        ("{data: {labels: [a, b]}, name: 'a b'}", "name: String should match pattern"),
        ("rounds: [", "is not YAML"),
        ("- 1", "Input should be a valid dictionary"),
    ],
)
def test_a_wrong_spec_is_one_line_that_names_the_field(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml(text, "run.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("run.yaml")
    assert "\n" not in str(caught.value)


@given(bottom=st.integers(1, 40), top=st.integers(0, 40), blocks=st.integers(1, 40))
def test_a_split_covers_every_block_once_or_is_refused(bottom: int, top: int, blocks: int) -> None:
    try:
        split = SplitSpec(bottom=bottom, top=top).of(blocks)
    except SplitError:
        assert bottom + top >= blocks
        return
    assert split.blocks == blocks
    assert list(split.trunk_blocks) == list(range(bottom, blocks - top))


@pytest.mark.parametrize(("bottom", "trunk", "top"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_an_impossible_split_is_refused(bottom: int, trunk: int, top: int) -> None:
    with pytest.raises(SplitError, match="impossible"):
        Split(bottom=bottom, trunk=trunk, top=top)


def test_a_client_may_have_a_split_of_its_own() -> None:
    spec = RunSpec.model_validate(LABELS | {"split": {"bottom": 1, "top": 1}, "splits": {"weak": {"bottom": 2}}})
    assert str(spec.split_of("weak", 6)) == "2/3/1"
    assert str(spec.split_of("strong", 6)) == "1/4/1"


BOUNDS = [
    ("model.max_tokens", 2, 131_072),
    ("split.bottom", 1, 10_000),
    ("split.top", 0, 10_000),
    ("lora.rank", 1, 1024),
    ("lora.alpha", 1e-9, 1e6),
    ("training.rounds", 1, 10_000),
    ("training.edge_rounds", 1, 1_000),
    ("training.local_steps", 1, 100_000),
    ("training.batch", 1, 100_000),
    ("training.micro_batches", 1, 16),
    ("training.window", 1, 16),
    ("training.early_stopping.patience", 1, 10_000),
    ("training.early_stopping.min_delta", 0, 1e6),
    ("training.optimizer.learning_rate", 1e-9, 1),
    ("training.optimizer.weight_decay", 0, 10),
    ("training.optimizer.epsilon", 1e-12, 1),
    ("fleet.min_clients", 1, 100_000),
    ("fleet.min_edges", 1, 100_000),
    ("fleet.enroll_timeout_s", 1e-3, 30 * 24 * 3600),
    ("rounds.quorum", 1e-9, 1),
    ("rounds.deadline_s", 1e-3, 30 * 24 * 3600),
    ("privacy.ssop.rank", 2, 4096),
    ("privacy.noise.clip", 1e-9, 1e3),
    ("privacy.noise.multiplier", 1e-9, 1e3),
    ("privacy.noise.delta", 1e-300, 0.999999),
    ("privacy.adversary.weight", 1e-9, 100),
    ("privacy.adversary.width", 8, 8192),
    ("reuse.threshold", 0, 0.999999),
    ("clustering.warmup_steps", 0, 10_000),
    ("clustering.dimensions", 2, 256),
    ("clustering.quorum", 1e-9, 1),
    ("clustering.deadline_s", 1e-3, 30 * 24 * 3600),
    ("clustering.every", 0, 10_000),
    ("clustering.probes.count", 8, 128),
    ("clustering.probes.repeated", 1, 64),
    ("trust.min_trust", 0, 0.999999),
    ("assignment.alpha", 0, 1e6),
    ("assignment.beta", 0, 1e6),
    ("assignment.gamma", 0, 1e6),
    ("assignment.latency_bound_ms", 1e-9, 1e6),
    ("assignment.move_cost", 0, 1e6),
    ("seed", 0, 2**31 - 1),
    ("plan.every", 0, 10_000),
]
BOUND_BY_OTHERS = {"training.micro_batches", "clustering.probes.count", "clustering.probes.repeated"}
"""By the batch, by how many probes there are, and by how many are asked: less than their own bound."""
LISTS = [
    ("data.labels", [str(n) for n in range(100_000)], [str(n) for n in range(100_001)]),
    ("splits", {f"c{n}": {} for n in range(10_000)}, {f"c{n}": {} for n in range(10_001)}),
    ("lora.targets", ["q"] * 64, ["q"] * 65),
    ("training.optimizer.betas", [0, 0.999999], [0.9, 1]),
    ("training.optimizer.betas", [0, 0.999999], [-0.1, 0.9]),
    ("model.source", "m" * 4096, "m" * 4097),
    ("model.source", "m", ""),
    ("data.text", "c" * 256, "c" * 257),
    ("data.pair", "c", ""),
    ("data.labels", ["a", "l" * 4096], ["a", "l" * 4097]),
]


def spec_with(field: str, value: object) -> RunSpec:
    raw: dict[str, Any] = {"data": {"labels": ["a", "b"]}}
    if field.startswith("privacy.noise"):
        raw["privacy"] = {"noise": {"clip": 1, "multiplier": 1}}
    part = raw
    *path, last = field.split(".")
    for name in path:
        part = part.setdefault(name, {})
    part[last] = value
    return parse(RunSpec, raw, "spec")


def refusal_of(field: str, value: object) -> str:
    with pytest.raises(SpecError) as caught:
        spec_with(field, value)
    text = str(caught.value)
    assert text.startswith(f"spec: {field}")
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.mark.parametrize(("field", "least", "most"), BOUNDS, ids=[field for field, *_ in BOUNDS])
def test_a_number_at_its_bound_is_taken_and_one_past_it_is_refused(field: str, least: float, most: float) -> None:
    spec_with(field, least)
    spec_with(field, most)
    refusal_of(field, least - 1)
    if field not in BOUND_BY_OTHERS:
        refusal_of(field, most + 1)
    for endless in (float("inf"), float("-inf"), float("nan"), 10**400):
        refusal_of(field, endless)


def test_every_number_of_a_spec_has_its_bounds_tested() -> None:
    def numbers(part: type[BaseModel], path: str = "") -> Iterator[str]:
        for name, field in part.model_fields.items():
            kind = field.annotation
            if kind in (int, float):
                yield path + name
            for part_of in get_args(kind) if isinstance(kind, UnionType) else (kind,):
                if isinstance(part_of, type) and issubclass(part_of, BaseModel):
                    yield from numbers(part_of, f"{path}{name}.")

    assert set(numbers(RunSpec)) == {field for field, *_ in BOUNDS} | {"data.holdout"}


@pytest.mark.parametrize(("field", "fits", "too_much"), LISTS, ids=[field for field, *_ in LISTS])
def test_a_text_or_list_at_its_bound_is_taken_and_one_past_it_is_refused(
    field: str, fits: object, too_much: object
) -> None:
    spec_with(field, fits)
    refusal_of(field, too_much)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.1, float("nan")])
def test_a_holdout_keeps_rows_back_and_leaves_some(share: float) -> None:
    refusal_of("data.holdout", share)


def test_labels_are_stripped_distinct_and_not_blank() -> None:
    assert spec_with("data.labels", [" a", "b "]).data.labels == ("a", "b")
    assert "'a' is named twice; name each label once" in refusal_of("data.labels", ["a", "b", " a"])
    assert "data.labels.1: String should have at least 1 character" in refusal_of("data.labels", ["a", "  "])
    assert refusal_of("data.labels", [" "] * 1000).endswith("; and 995 more")


def test_yaml_that_repeats_itself_without_end_is_refused_on_one_short_line() -> None:
    rows = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml("\n".join([*rows, "name: *a29"]))
    assert len(str(caught.value)) < 2000
