"""Blocks that run again in their backward: the same gradients, and no more kept than what enters each."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import (
    BLOCKS,
    DECODERS,
    ENCODERS,
    LABELS,
    MakeFolder,
    batch_of,
    full_adapter,
    gradients_of,
    split_step,
)
from torch.utils._python_dispatch import TorchDispatchMode

from elsa.model import adapter
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, LoraSpec, Split, Task

SPLIT = Split(bottom=1, trunk=1, top=1)
CASES: list[tuple[str, Task]] = [(family, "classification") for family in ENCODERS + DECODERS]
CASES += [("gpt2", "causal-lm"), ("llama", "causal-lm")]
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
HIDDEN, MASK = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)), torch.ones(2, 5, dtype=torch.long)


@pytest.mark.parametrize("base", ["float32", "int8"])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_gradients_are_those_without(make_folder: MakeFolder, family: str, task: Task, base: BaseDtype) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, task)))
    config, tensors = full_adapter(checkpoint, task)
    batch = batch_of([7, 3, 5], checkpoint.config(task, LABELS).pad_token_id, task)
    results = []
    for again in (False, True):
        given = {"task": task, "num_labels": LABELS, "base": base, "checkpointing": again}
        client, edge = Segment.client(checkpoint, SPLIT, **given), Segment.edge(checkpoint, range(1, BLOCKS), **given)
        for segment in (client, edge):
            adapter.attach(segment, config)
            adapter.write(segment, tensors)
        logits, _ = split_step(client, edge, SPLIT, batch, task)
        results.append((logits, gradients_of(client) | gradients_of(edge, split=SPLIT)))
    (want_logits, want), (logits, got) = results
    assert torch.equal(logits, want_logits)
    assert all(np.array_equal(got[name], want[name]) and want[name].any() for name in want)


def edge_of(make_folder: MakeFolder, *names: str, checkpointing: bool) -> Segment:
    """An edge of dropout with adapters of these names, each with values of its own."""
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification", DROPOUT)))
    given = {"task": "classification", "num_labels": LABELS}
    edge = Segment.edge(checkpoint, range(1, BLOCKS), **given, checkpointing=checkpointing)
    for seed, name in enumerate(names):
        config, tensors = full_adapter(checkpoint, "classification", seed)
        adapter.attach(edge, config, name)
        adapter.write(edge, tensors, name)
    return edge


@pytest.mark.parametrize("dropout", [False, True])
def test_a_backward_is_of_the_adapter_and_the_dropout_of_its_forward(make_folder: MakeFolder, dropout: bool) -> None:
    split = Split(bottom=1, trunk=2, top=0)
    results = []
    for again in (False, True):
        edge = edge_of(make_folder, "ann", "bob", "eve", checkpointing=again)
        torch.manual_seed(5)
        outputs = []
        for name in ("ann", "bob"):
            adapter.select(edge, name)
            edge.train(dropout)
            outputs.append(edge.trunk(HIDDEN, MASK, split))
        edge.train(not dropout)
        adapter.select(edge, "eve")
        draw = torch.get_rng_state()
        for output in outputs:
            output.sum().backward()
        assert torch.equal(draw, torch.get_rng_state()), "a backward draws nothing from the generator of the process"
        assert edge.model.training is not dropout
        assert edge.attached.tuner.active_adapter == [edge.attached.inner["eve"]]
        assert all(p.grad is None for p in adapter.parameters(edge, "eve"))
        results.append([*outputs, *(p.grad for name in ("ann", "bob") for p in adapter.parameters(edge, name))])
    assert all(torch.equal(got, want) and want.any() for want, got in zip(*results, strict=True))


def test_a_backward_after_another_adapter_is_taken_off_is_the_same(make_folder: MakeFolder) -> None:
    split = Split(bottom=1, trunk=2, top=0)
    results = []
    for again in (False, True):
        edge = edge_of(make_folder, "ann", "bob", checkpointing=again)
        adapter.select(edge, "ann")
        output = edge.trunk(HIDDEN, MASK, split)
        adapter.remove(edge, "bob")
        output.sum().backward()
        results.append([p.grad for p in adapter.parameters(edge, "ann")])
    assert all(torch.equal(got, want) for want, got in zip(*results, strict=True))


def test_a_block_keeps_its_input_alone(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("llama", "causal-lm", {"num_hidden_layers": 6})))
    plain, again = (bytes_kept(checkpoint, 5, one) - bytes_kept(checkpoint, 1, one) for one in (False, True))
    state_bytes = 4 * 8 * 16 * 4
    assert 4 * state_bytes <= again <= 4 * 1.5 * state_bytes, (
        "of four blocks more: the states between, and little else"
    )
    assert plain > 4 * 8 * state_bytes


def bytes_kept(checkpoint: Checkpoint, blocks: int, checkpointing: bool) -> int:
    """Bytes that are made in a forward of so many blocks and live until its backward."""
    edge = Segment.edge(checkpoint, range(1, 6), task="causal-lm", checkpointing=checkpointing)
    adapter.attach(edge, adapter.adapter_config(checkpoint, LoraSpec(rank=2), "causal-lm"))
    hidden = torch.randn(4, 8, 16, requires_grad=True)
    with Made() as made:
        output = edge.through(hidden, torch.ones(4, 8, dtype=torch.long), range(1, 1 + blocks))
    alive = {storage.data_ptr(): storage.nbytes() for one in made.storages if (storage := one()) is not None}
    own = {p.untyped_storage().data_ptr() for p in edge.model.parameters()}
    del output
    return sum(size for at, size in alive.items() if at not in own)


class Made(TorchDispatchMode):
    """Watches which memory operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, tuple | list) else (out,)
        self.storages += [weakref.ref(one.untyped_storage()) for one in tensors if isinstance(one, torch.Tensor)]
        return out
