"""What a person writes as a run specification, and what is said when it cannot be used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import SpecError, SplitError
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
        ("{data: {labels: [a, b]}, codecs: {h1: zip}}", "codecs.h1: Input should be 'none' or 'bf16' (got 'zip')"),
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
