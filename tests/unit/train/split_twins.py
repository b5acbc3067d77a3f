"""A split model and its unsplit twin, from the same checkpoint, adapter and batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_models import BLOCKS, LABELS, VOCABULARY, full_adapter

from elsa.data.batches import Batch
from elsa.data.encoding import NO_LOSS
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import OptimizerSpec, Split, Task, TrainingSpec
from elsa.train.packing import mask_of
from elsa.train.session import TrunkSession

SPLITS = (Split(bottom=1, trunk=1, top=1), Split(bottom=1, trunk=2, top=0), Split(bottom=2, trunk=1, top=0))

OPTIMIZER = OptimizerSpec(learning_rate=0.01, epsilon=0.01, weight_decay=0.01)
"""AdamW steps by rate·g/(|g| + epsilon) at first: with a tiny epsilon it is the sign of g, and where g is nearly 0
the order of a sum decides it. With epsilon = rate, a difference in g makes at most as large a one in the step."""

RAGGED = ([3, 9, 1, 5, 5, 2, 7], [4, 2, 6, 8, 3, 1, 2], [2, 2, 9, 1, 4, 4, 6])
"""Lengths of three batches of seven rows."""

Tensors = dict[str, np.ndarray]


def batch_of(lengths: Sequence[int], task: Task, seed: int = 0, types: bool = False) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    mask = mask_of(lengths)
    ids = torch.where(mask.bool(), torch.randint(3, VOCABULARY, mask.shape, generator=draw), 0)
    if task == "classification":
        labels = torch.randint(0, LABELS, (len(lengths),), generator=draw)
    else:  # a prompt of some tokens, without loss
        prompt = torch.arange(mask.shape[1]) < torch.randint(0, 3, (len(lengths), 1), generator=draw)
        labels = torch.where(mask.bool() & ~prompt, ids, NO_LOSS)
    kinds = torch.randint(0, 2, mask.shape, generator=draw) if types else None
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=kinds, labels=labels)


def batches_of(task: Task, types: bool = False) -> list[Batch]:
    return [batch_of(lengths, task, seed, types) for seed, lengths in enumerate(RAGGED)]


def training(micro_batches: int = 1, window: int = 2, optimizer: OptimizerSpec = OPTIMIZER) -> TrainingSpec:
    return TrainingSpec(batch=64, micro_batches=micro_batches, window=window, optimizer=optimizer)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint, what of it is trained, and the start."""

    checkpoint: Checkpoint
    task: Task
    config: AdapterConfig
    start: Tensors

    def whole(self) -> Segment:
        return self._ready(Segment.whole(self.checkpoint, task=self.task, num_labels=LABELS))

    def client(self, split: Split) -> Segment:
        return self._ready(Segment.client(self.checkpoint, split, task=self.task, num_labels=LABELS))

    def edge(self, name: str = "default") -> Segment:
        segment = Segment.edge(self.checkpoint, range(1, BLOCKS), task=self.task, num_labels=LABELS)
        return self._ready(segment, name)

    def attach(self, edge: Segment, name: str) -> None:
        self._ready(edge, name)

    def _ready(self, segment: Segment, name: str = "default") -> Segment:
        adapters.attach(segment, self.config, name)
        adapters.write(segment, self.start, name)
        return segment


def model_of(folder: Path, task: Task) -> Model:
    checkpoint = Checkpoint.open(str(folder))
    config, start = full_adapter(checkpoint, task)
    return Model(checkpoint=checkpoint, task=task, config=config, start=start)


def session_of(
    edge: Segment, split: Split, spec: TrainingSpec, name: str = "default", wants_gradient: bool = True
) -> TrunkSession:
    return TrunkSession(
        edge,
        adapter=name,
        split=split,
        optimizer=spec.optimizer,
        window=spec.window,
        wants_gradient=wants_gradient,
    )


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
