"""A segment to measure on: it runs what one block needs, holds the bytes of the real one, and reads no weight."""

from typing import Any

import pytest
import torch
from tiny_models import BLOCKS, DECODERS, ENCODERS, LABELS, MakeFolder, batch_of

from elsa.errors import SplitError
from elsa.model import adapter
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, LoraSpec, OptimizerSpec, Split
from elsa.train.session import Position, TrunkSession

CASES = [(family, "classification") for family in ENCODERS + DECODERS] + [(f, "causal-lm") for f in DECODERS]
FIRST = Split(bottom=1, trunk=BLOCKS - 1, top=0)
SECOND = Split(bottom=1, trunk=1, top=BLOCKS - 2)


def without_weights(checkpoint: Checkpoint) -> Checkpoint:
    """What a device has before it fetched any."""
    return Checkpoint(source="far", folder=checkpoint.folder, architecture=checkpoint.architecture, files={})


@pytest.mark.parametrize("base", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_it_runs_the_ends_and_a_block_forward_and_backward(
    make_folder: MakeFolder, family: str, task: Any, base: BaseDtype
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, task)))
    config = adapter.adapter_config(checkpoint, LoraSpec(rank=2), task, LABELS)
    given: dict[str, Any] = {"task": task, "num_labels": LABELS, "base": base, "checkpointing": base == "int8"}
    segment = Segment.sample(without_weights(checkpoint), ends=True, **given)
    adapter.attach(segment, config)
    adapter.write(segment, adapter.initial_adapter(checkpoint, config, LABELS, seed=0))
    batch = batch_of([5, 3], segment.config.pad_token_id, task)
    hidden = segment.bottom(batch.input_ids, batch.attention_mask, split=FIRST)
    alone = segment.through(hidden, batch.attention_mask, range(1))
    logits = segment.top(alone, batch.input_ids, batch.attention_mask, FIRST)
    assert logits.isfinite().all() and logits.requires_grad
    logits.square().sum().backward()
    assert all(p.grad is not None for p in adapter.parameters(segment))
    with pytest.raises(SplitError, match=r"\[1\]"):
        segment.trunk(hidden, batch.attention_mask, SECOND)


@pytest.mark.parametrize("base", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_it_holds_what_a_segment_of_one_block_holds(
    make_folder: MakeFolder, family: str, task: Any, base: BaseDtype
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, task)))
    given: dict[str, Any] = {"task": task, "num_labels": LABELS, "base": base}
    pooler = checkpoint.architecture.pooler or "no pooler"  # held as if it were trained
    for ends, real in (
        (True, Segment.client(checkpoint, FIRST, **given)),
        (False, Segment.edge(checkpoint, range(1, 2), **given)),
    ):
        sample = Segment.sample(without_weights(checkpoint), ends=ends, **given)
        held, want = (
            {name: (p.dtype, p.shape) for name, p in one.model.named_parameters() if not name.startswith(pooler)}
            for one in (sample, real)
        )
        assert held == want and sample.owned == real.owned and sample.ends == ends


def test_an_edges_session_trains_on_it(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    config = adapter.adapter_config(checkpoint, LoraSpec(rank=2), "classification", LABELS)
    start = adapter.initial_adapter(checkpoint, config, LABELS, seed=0)
    edge = Segment.sample(without_weights(checkpoint), ends=False, task="classification", num_labels=LABELS)
    adapter.attach(edge, config)
    adapter.write(edge, start)
    session = TrunkSession(edge, adapter="default", split=SECOND, optimizer=OptimizerSpec(), window=1)
    states, at = torch.randn(7, 16), Position(step=0, micro_batch=0)
    session.forward(at, states, [4, 3])
    gradient = session.backward(at, torch.randn(7, 16), apply=True)
    assert gradient is not None and gradient.shape == (7, 16)
    assert any((values != start[name]).any() for name, values in session.finish(1).items())
