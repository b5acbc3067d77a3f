"""The unsplit twin: the same training and evaluation of a whole model in one process, for comparison."""

from collections.abc import Iterable

import torch

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.spec import Task, TrainingSpec
from elsa.train.loss import Score, count, loss_sum, score
from elsa.train.optimizer import adamw


def train_whole(segment: Segment, batches: Iterable[Batch], *, task: Task, training: TrainingSpec) -> list[float]:
    """Train the adapter "default" of a whole model, a step a batch; the mean loss before each step."""
    optimizer = adamw(adapters.parameters(segment), training.optimizer)
    optimizer.zero_grad(set_to_none=True)
    segment.train(training.dropout)
    losses = []
    for batch in batches:
        logits = segment.logits(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        loss = loss_sum(logits, batch.labels, task) / max(count(batch.labels, task), 1)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


@torch.no_grad()
def evaluate_whole(segment: Segment, batches: Iterable[Batch], *, task: Task) -> Score:
    """Loss, hits and count of a whole model over `batches`."""
    segment.train(False)
    total = Score()
    for batch in batches:
        logits = segment.logits(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        total += score(logits, batch.labels, task)
    return total
