"""The client's side of a split step: bottom, then the trunk wherever it is, then top and loss, and all the way back.

A batch is cut into micro-batches whose gradients add up to the batch's, and the optimizer steps once a batch, so
what is in flight at the same time changes nothing in the maths: a step equals one of the unsplit model.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.spec import Split, Task, TrainingSpec
from elsa.train.loss import Score, count
from elsa.train.optimizer import adamw
from elsa.train.packing import pack, unpack
from elsa.train.phases import Stopwatch
from elsa.train.session import Position
from elsa.train.top import judge, learn
from elsa.train.trunk import BackwardReply, ForwardReply, Trunk

Blur = Callable[[torch.Tensor], torch.Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Open:
    """A micro-batch on its way."""

    batch: Batch
    activations: torch.Tensor  # (tokens, width), at the lower cut, with its graph; only of rows that were missing
    aside: torch.Tensor | None = None  # a further loss by the activations


class Opponent(Protocol):
    """A loss by the activations at the lower cut that is added to the task's; see `elsa.privacy.adversary`."""

    def loss(self, activations: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The loss of activations (tokens, width) with their graph, of the tokens numbered `ids` (tokens,)."""


class SplitTrainer:
    """Trains a client's segment through a trunk.

    Args:
        segment: the client's blocks and head, with the adapter "default" attached and written.
        trunk: a session of its own, at step 0.
        watch: where the seconds of bottom and top are added.
        bottom_adapters: train the blocks before the cut too.
        blur: what is done to the activations (tokens, width) before they leave, such as noise.
        opponent: a further loss by the activations.
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
        bottom_adapters: bool = True,
        blur: Blur | None = None,
        opponent: Opponent | None = None,
    ) -> None:
        self._segment = segment
        self._trunk = trunk
        self._split = split
        self._task: Task = task
        self._training = training
        self._watch = watch or Stopwatch()
        self._bottom_adapters = bottom_adapters
        self._blur = blur
        self._opponent = opponent
        trained = adapters.parameters(segment) if bottom_adapters else adapters.top_parameters(segment, split)
        self._optimizer = adamw(trained, training.optimizer)
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
                waiting[sent] = self._send_forward(sent, parts[sent], len(parts))
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

    def _send_forward(self, number: int, batch: Batch, parts: int) -> _Open:
        missing = [place for place, needed in enumerate(self._trunk.missing(batch.rows)) if needed]
        if not batch.rows:
            missing = list(range(len(batch)))
        with self._watch.timing("bottom"):
            opened = self._bottom(batch, missing, parts)
        position = Position(step=self.step, micro_batch=number)
        self._trunk.forward(position, opened.activations.detach(), batch.lengths, batch.rows)
        return opened

    def _bottom(self, batch: Batch, missing: list[int], parts: int) -> _Open:
        """The rows at the places `missing` through the bottom; all are, where it is trained."""
        if not missing:
            return _Open(batch=batch, activations=torch.zeros(0, self._segment.width))
        part = batch if len(missing) == len(batch) else batch.take(missing)
        with torch.set_grad_enabled(self._bottom_adapters):
            activations = bottom_activations(self._segment, part, self._split)
            aside = None
            if self._opponent is not None:
                ids = part.input_ids[part.attention_mask.bool()]
                aside = self._opponent.loss(activations, ids) / parts
            if self._blur is not None:
                activations = self._blur(activations)
        return _Open(batch=batch, activations=activations, aside=aside)

    def _send_backward(self, reply: ForwardReply, batch: Batch, total: int, *, last: bool) -> float:
        with self._watch.timing("top"):
            leaf = reply.activations.detach().requires_grad_()
            loss = learn(self._segment, unpack(leaf, batch.lengths), batch, self._split, self._task, total)
        if leaf.grad is None:
            raise RuntimeError("the loss does not depend on the trunk's output")
        self._trunk.backward(reply.position, leaf.grad, apply=last)
        return loss

    def _finish_backward(self, reply: BackwardReply, opened: _Open) -> None:
        with self._watch.timing("bottom"):
            if opened.activations.requires_grad:  # not so where the bottom has nothing to train
                if opened.aside is not None:
                    torch.autograd.backward([opened.activations, opened.aside], [reply.gradient, None])
                else:
                    torch.autograd.backward(opened.activations, reply.gradient)

    def _apply(self) -> None:
        with self._watch.timing("top"):
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self.step += 1


def bottom_activations(segment: Segment, batch: Batch, split: Split) -> torch.Tensor:
    """h1 of a batch: (tokens, width), the real tokens of all rows."""
    hidden = segment.bottom(batch.input_ids, batch.attention_mask, batch.token_type_ids, split=split)
    return pack(hidden, batch.lengths)


def predict(
    segment: Segment,
    trunk: Trunk,
    batches: Iterable[Batch],
    *,
    split: Split,
    window: int,
    blur: Blur | None = None,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Each batch with its logits, in order, up to `window` batches in flight. The trunk needs no backward."""

    def logits(hidden: torch.Tensor, batch: Batch) -> tuple[Batch, torch.Tensor]:
        return batch, segment.top(hidden, batch.input_ids, batch.attention_mask, split)

    return _run(segment, trunk, batches, logits, split=split, window=window, blur=blur, watch=watch)


def evaluate(
    segment: Segment,
    trunk: Trunk,
    batches: Iterable[Batch],
    *,
    split: Split,
    task: Task,
    window: int,
    blur: Blur | None = None,
    watch: Stopwatch | None = None,
) -> Score:
    """Loss, hits and count over `batches`, through the split; arguments as of `SplitTrainer`."""

    def scored(hidden: torch.Tensor, batch: Batch) -> Score:
        return judge(segment, hidden, batch, split, task)

    return sum(
        _run(segment, trunk, batches, scored, split=split, window=window, blur=blur, watch=watch), start=Score()
    )


@torch.no_grad()
def _run(
    segment: Segment,
    trunk: Trunk,
    batches: Iterable[Batch],
    finish: Callable[[torch.Tensor, Batch], Result],
    *,
    split: Split,
    window: int,
    blur: Blur | None,
    watch: Stopwatch | None,
) -> Iterator[Result]:
    """What `finish` makes of each batch and what the trunk gave for it, states (rows, tokens, width)."""
    segment.train(False)
    watch = watch or Stopwatch()
    waiting: list[Batch] = []
    for step, batch in enumerate(batches):
        with watch.timing("bottom"):
            activations = bottom_activations(segment, batch, split)
            activations = blur(activations) if blur else activations
        trunk.forward(Position(step=step, micro_batch=0), activations, batch.lengths)
        waiting.append(batch)
        if len(waiting) == window:
            yield _finished(trunk, waiting.pop(0), finish, watch)
    while waiting:
        yield _finished(trunk, waiting.pop(0), finish, watch)


def _finished(
    trunk: Trunk, batch: Batch, finish: Callable[[torch.Tensor, Batch], Result], watch: Stopwatch
) -> Result:
    reply = trunk.receive()
    if not isinstance(reply, ForwardReply):
        raise RuntimeError("a backward reply where nothing was sent backward")
    with watch.timing("top"):
        return finish(unpack(reply.activations, batch.lengths), batch)
