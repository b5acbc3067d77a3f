"""The client's side of a split step: bottom, then the trunk wherever it is, then top and loss, and all the way back.

A batch is cut into micro-batches whose gradients add up to the batch's, and the optimizer steps once a batch, so
what is in flight at the same time changes nothing in the maths: a step equals one of the unsplit model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.spec import Split, Task, TrainingSpec
from elsa.train.loss import Score, count, loss_sum, score
from elsa.train.optimizer import adamw
from elsa.train.packing import pack, unpack
from elsa.train.phases import Stopwatch
from elsa.train.session import Position
from elsa.train.trunk import BackwardReply, ForwardReply, Trunk


@dataclass(frozen=True, kw_only=True)
class _Open:
    """A micro-batch on its way."""

    batch: Batch
    activations: torch.Tensor  # (tokens, width), at the lower cut, with its graph


class SplitTrainer:
    """Trains a client's segment through a trunk.

    Args:
        segment: the client's blocks and head, with the adapter "default" attached and written.
        trunk: a session of its own, at step 0.
        watch: where the seconds of bottom and top are added.
    """

    def __init__(
        self,
        segment: Segment,
        trunk: Trunk,
        *,
        split: Split,
        task: Task,
        training: TrainingSpec,
        watch: Stopwatch | None = None,
    ) -> None:
        self._segment = segment
        self._trunk = trunk
        self._split = split
        self._task: Task = task
        self._training = training
        self._watch = watch or Stopwatch()
        self._optimizer = adamw(adapters.parameters(segment), training.optimizer)
        self._optimizer.zero_grad(set_to_none=True)
        self.step = 0

    def train_step(self, batch: Batch) -> float:
        """One optimizer step on `batch`; the mean loss before it."""
        parts = batch.split(self._training.micro_batches)
        total = sum(count(part.labels, self._task) for part in parts)
        waiting: dict[int, _Open] = {}
        loss, sent, done = 0.0, 0, 0
        self._segment.train(self._training.dropout)
        while done < len(parts):
            while sent < len(parts) and sent - done < self._training.window:
                waiting[sent] = self._send_forward(sent, parts[sent])
                sent += 1
            reply = self._trunk.receive()
            number = reply.position.micro_batch
            if isinstance(reply, ForwardReply):
                loss += self._send_backward(reply, waiting[number].batch, total, last=number == len(parts) - 1)
            else:
                self._finish_backward(reply, waiting.pop(number))
                done += 1
        self._apply()
        return loss

    def _send_forward(self, number: int, batch: Batch) -> _Open:
        with self._watch.timing("bottom"):
            hidden = self._segment.bottom(
                batch.input_ids, batch.attention_mask, batch.token_type_ids, split=self._split
            )
            activations = pack(hidden, batch.lengths)
        position = Position(step=self.step, micro_batch=number)
        self._trunk.forward(position, activations.detach(), batch.lengths)
        return _Open(batch=batch, activations=activations)

    def _send_backward(self, reply: ForwardReply, batch: Batch, total: int, *, last: bool) -> float:
        with self._watch.timing("top"):
            leaf = reply.activations.detach().requires_grad_()
            logits = self._segment.top(
                unpack(leaf, batch.lengths), batch.input_ids, batch.attention_mask, split=self._split
            )
            loss = loss_sum(logits, batch.labels, self._task) / max(total, 1)
            loss.backward()  # type: ignore[no-untyped-call]
        if leaf.grad is None:
            raise RuntimeError("the loss does not depend on the trunk's output")
        self._trunk.backward(reply.position, leaf.grad, apply=last)
        return loss.item()

    def _finish_backward(self, reply: BackwardReply, opened: _Open) -> None:
        with self._watch.timing("bottom"):
            if opened.activations.requires_grad:  # not so where the bottom has nothing to train
                torch.autograd.backward(opened.activations, reply.gradient)

    def _apply(self) -> None:
        with self._watch.timing("top"):
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self.step += 1


@torch.no_grad()
def predict(
    segment: Segment, trunk: Trunk, batches: Iterable[Batch], *, split: Split, window: int
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Each batch with its logits, in order, up to `window` batches in flight. The trunk needs no backward."""
    segment.train(False)
    waiting: list[Batch] = []
    for step, batch in enumerate(batches):
        hidden = segment.bottom(batch.input_ids, batch.attention_mask, batch.token_type_ids, split=split)
        trunk.forward(Position(step=step, micro_batch=0), pack(hidden, batch.lengths), batch.lengths)
        waiting.append(batch)
        if len(waiting) == window:
            yield _predicted(segment, trunk, waiting.pop(0), split)
    while waiting:
        yield _predicted(segment, trunk, waiting.pop(0), split)


def evaluate(
    segment: Segment, trunk: Trunk, batches: Iterable[Batch], *, split: Split, task: Task, window: int
) -> Score:
    """Loss, hits and count over `batches`, through the split."""
    total = Score()
    for batch, logits in predict(segment, trunk, batches, split=split, window=window):
        total += score(logits, batch.labels, task)
    return total


def _predicted(segment: Segment, trunk: Trunk, batch: Batch, split: Split) -> tuple[Batch, torch.Tensor]:
    reply = trunk.receive()
    if not isinstance(reply, ForwardReply):
        raise RuntimeError("a backward reply where nothing was sent backward")
    hidden = unpack(reply.activations, batch.lengths)
    return batch, segment.top(hidden, batch.input_ids, batch.attention_mask, split=split)
