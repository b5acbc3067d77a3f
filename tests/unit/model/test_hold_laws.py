"""A segment that changes its blocks is the one that is made with them, and reads no more than what is new."""

from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BLOCKS, LABELS, MakeFolder, batch_of, full_adapter, gradients_of

from elsa.errors import CheckpointError, SplitError
from elsa.model import adapter
from elsa.model.architecture import block_index
from elsa.model.bare import strip
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, Split

MORE = 5
SPLITS = [Split(bottom=p, trunk=MORE - p - o, top=o) for p in range(1, MORE) for o in range(MORE - p)]
MODELS = [
    ("bert", "classification", "float32", False),
    ("gpt2", "causal-lm", "int8", True),
    ("llama", "causal-lm", "bfloat16", False),
    ("qwen3", "classification", "int8", False),
]


class Watched:
    """A checkpoint that gives the tensors of some blocks alone."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.allowed: frozenset[int] = frozenset(range(MORE))
        self._checkpoint = checkpoint

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        names = list(names)
        for name in names:
            assert block_index(name, self._checkpoint.architecture) in self.allowed, f"{name} is held already"
        return self._checkpoint.read(names, dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)


@pytest.fixture
def folders(make_folder: MakeFolder) -> dict[tuple[str, str], Path]:
    sizes = {"n_layer": MORE, "num_hidden_layers": MORE}
    return {(family, task): make_folder(family, task, sizes) for family, task, _, _ in MODELS}


def trained_step(segment: Segment, checkpoint: Checkpoint, split: Split, task: Any) -> list[torch.Tensor]:
    """What a client's step makes with a fresh adapter: both outputs and all gradients."""
    config, tensors = full_adapter(checkpoint, task)
    adapter.attach(segment, config)
    adapter.write(segment, tensors)
    batch = batch_of([5, 3], segment.config.pad_token_id, task)
    bottom = segment.bottom(batch.input_ids, batch.attention_mask, split=split)
    logits = segment.top(bottom, batch.input_ids, batch.attention_mask, split)
    logits.square().sum().backward()
    return [bottom, logits, *(torch.from_numpy(one) for one in gradients_of(segment).values())]


def bytes_of(segment: Segment) -> int:
    tensors = [*segment.model.parameters(), *segment.model.buffers()]
    return sum({one.data_ptr(): one.nbytes for one in tensors}.values())


@pytest.mark.parametrize(("family", "task", "base", "again"), MODELS)
def test_any_sequence_of_holds_ends_as_a_segment_made_so(
    folders: dict[tuple[str, str], Path], family: str, task: Any, base: BaseDtype, again: bool
) -> None:
    checkpoint = Checkpoint.open(str(folders[family, task]))
    given_all: dict[str, Any] = {"task": task, "num_labels": LABELS, "base": base, "checkpointing": again}

    @cache
    def direct(split: Split) -> tuple[int, list[torch.Tensor], list[str]]:
        segment = Segment.client(checkpoint, split, **given_all)
        size, names = bytes_of(segment), [name for name, _ in segment.model.named_parameters()]
        return size, trained_step(segment, checkpoint, split, task), names

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.sampled_from(SPLITS), min_size=2, max_size=4), st.booleans())
    def law(splits: list[Split], train_between: bool) -> None:
        segment = Segment.client(checkpoint, splits[0], **given_all)
        watched: Any = Watched(checkpoint)
        for before, split in pairwise(splits):
            if train_between:
                trained_step(segment, checkpoint, before, task)
            blocks = set(range(MORE)) - set(split.trunk_blocks)
            kept = {
                index: segment.model.get_submodule(f"{segment.architecture.blocks}.{index}")
                for index in segment.owned
            }
            watched.allowed = frozenset(blocks - segment.owned)
            segment.hold(watched, blocks)
            assert segment.owned == blocks and segment.attached is None
            for index in blocks & kept.keys():
                assert segment.model.get_submodule(f"{segment.architecture.blocks}.{index}") is kept[index]
        size, want, names = direct(splits[-1])
        assert [name for name, _ in segment.model.named_parameters()] == names
        assert bytes_of(segment) == size
        got = trained_step(segment, checkpoint, splits[-1], task)
        assert len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))

    law()


def test_an_edge_changes_its_blocks_too(folders: dict[tuple[str, str], Path]) -> None:
    checkpoint = Checkpoint.open(str(folders["llama", "causal-lm"]))
    edge = Segment.edge(checkpoint, range(1, 3), task="causal-lm", base="bfloat16")
    edge.hold(checkpoint, range(2, 5))
    direct = Segment.edge(checkpoint, range(2, 5), task="causal-lm", base="bfloat16")
    hidden, mask, split = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.long), Split(bottom=2, trunk=3, top=0)
    assert torch.equal(edge.trunk(hidden, mask, split), direct.trunk(hidden, mask, split))
    assert bytes_of(edge) == bytes_of(direct)
    with pytest.raises(SplitError, match=r"\[1\]"):
        edge.trunk(hidden, mask, Split(bottom=1, trunk=4, top=0))


def test_new_blocks_train_as_the_others_do(make_folder: MakeFolder) -> None:
    fields = {"hidden_dropout_prob": 0.5}
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification", fields)))
    edge = Segment.edge(checkpoint, range(1, 2), task="classification", num_labels=LABELS)
    edge.train(True)
    edge.hold(checkpoint, [2])
    assert all(module.training for module in edge.model.get_submodule("bert.encoder.layer.2").modules())


def test_a_block_that_cannot_be_read_leaves_those_that_stay(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("llama", "causal-lm")))
    segment = Segment.edge(checkpoint, range(2), task="causal-lm")
    files = {name: file for name, file in checkpoint.files.items() if block_index(name, checkpoint.architecture) != 2}
    lacking = Checkpoint(source="far", folder=checkpoint.folder, architecture=checkpoint.architecture, files=files)
    with pytest.raises(SplitError, match=r"no blocks \[3, 9\]"):
        segment.hold(checkpoint, [1, 3, 9])
    assert segment.owned == {0, 1}
    with pytest.raises(CheckpointError, match=r"layers\.2"):
        segment.hold(lacking, [1, 2])
    assert segment.owned == {1}
    direct = Segment.edge(checkpoint, range(1, 3), task="causal-lm")
    hidden, mask = torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(segment.through(hidden, mask, range(1, 2)), direct.through(hidden, mask, range(1, 2)))
    segment.hold(checkpoint, [1, 2])
    assert torch.equal(segment.through(hidden, mask, range(1, 3)), direct.through(hidden, mask, range(1, 3)))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_detaching_leaves_the_modules_that_were_there(make_folder: MakeFolder, family: str) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "classification")))
    segment = Segment.whole(checkpoint, task="classification", num_labels=LABELS)
    before = {path: id(module) for path, module in segment.model.named_modules()}
    values = {name: parameter.clone() for name, parameter in segment.model.state_dict().items()}
    config, tensors = full_adapter(checkpoint, "classification")
    for name in ("one", "other"):
        adapter.attach(segment, config, name)
        adapter.write(segment, tensors, name)
    adapter.detach(segment)
    assert segment.attached is None and not hasattr(segment.model, "peft_config")
    assert {path: id(module) for path, module in segment.model.named_modules()} == before
    assert all(torch.equal(values[name], now) for name, now in segment.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in segment.model.parameters())
    adapter.detach(segment)  # nothing is there: nothing happens
    strip(segment.model)
    adapter.attach(segment, config, "one")
    adapter.write(segment, tensors, "one")
    direct = Segment.whole(checkpoint, task="classification", num_labels=LABELS)
    adapter.attach(direct, config)
    adapter.write(direct, tensors)
    batch = batch_of([4, 6], segment.config.pad_token_id, "classification")
    got, want = (one.logits(batch.input_ids, batch.attention_mask) for one in (segment, direct))
    assert torch.equal(got, want)
    assert len(segment.owned) == BLOCKS
