"""The end of a client's forward: blocks above the trunk, head and loss, and how either is learned from or judged."""

import torch

from elsa.data.batches import Batch
from elsa.model.segment import Segment
from elsa.spec import Split, Task
from elsa.train import vocabulary
from elsa.train.loss import Score, loss_sum, score


def learn(segment: Segment, hidden: torch.Tensor, batch: Batch, split: Split, task: Task, total: int) -> float:
    """The loss of a micro-batch, summed and over `total`, and its backward into `hidden` and what is trained.

    Args:
        segment: the client's.
        hidden: (rows, tokens, width), what the trunk gave.
        batch: the rows.
        split: the cut.
        task: the run's.
        total: predictions of the whole step that carry loss.
    """
    total = max(total, 1)
    if task == "causal-lm":
        return vocabulary.learn(segment, segment.final(hidden, batch.attention_mask, split), batch.labels, total)
    logits = segment.top(hidden, batch.input_ids, batch.attention_mask, split)
    loss = loss_sum(logits, batch.labels, task) / total
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


@torch.no_grad()
def judge(segment: Segment, hidden: torch.Tensor, batch: Batch, split: Split, task: Task) -> Score:
    """Loss, hits and count of a batch; arguments as of `learn`."""
    if task == "causal-lm":
        return vocabulary.judge(segment, segment.final(hidden, batch.attention_mask, split), batch.labels)
    logits = segment.top(hidden, batch.input_ids, batch.attention_mask, split)
    return score(logits, batch.labels, task)
