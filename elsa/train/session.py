"""The edge's side of a split step: one client's adapter, optimizer and open micro-batches on a shared trunk.

A session is used by one thread at a time, the compute thread of its trunk. Messages must come in order: forwards and
backwards of a step's micro-batches each rising from 0, a backward after its forward, `apply` with the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from elsa.errors import StepOrderError
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.spec import OptimizerSpec, Split
from elsa.train.optimizer import adamw
from elsa.train.packing import mask_of, pack, unpack


@dataclass(frozen=True, kw_only=True)
class Position:
    """A micro-batch within a session."""

    step: int
    micro_batch: int

    def __str__(self) -> str:
        return f"step {self.step}, micro-batch {self.micro_batch}"


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """A micro-batch between its forward and its backward."""

    leaf: torch.Tensor  # (tokens, width), at the lower cut
    output: torch.Tensor  # (tokens, width), at the upper cut


class TrunkSession:
    """Trains the adapter `adapter` of `segment` on the blocks of `split`.

    Args:
        segment: the edge's blocks, shared with other sessions, with the adapter attached and written.
        window: micro-batches that may be between forward and backward at once.
        dropout: run the model's own dropout.
        wants_gradient: the client has something to train before the cut.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        adapter: str,
        split: Split,
        optimizer: OptimizerSpec,
        window: int,
        dropout: bool = False,
        wants_gradient: bool = True,
    ) -> None:
        self._segment = segment
        self._adapter = adapter
        self._split = split
        self._window = window
        self._dropout = dropout
        self._wants_gradient = wants_gradient
        self._optimizer = adamw(adapters.parameters(segment, adapter, split), optimizer)
        self._optimizer.zero_grad(set_to_none=True)
        self._graphs: dict[int, _Graph] = {}
        self._forwards = 0
        self._backwards = 0
        self.step = 0

    def forward(self, position: Position, activations: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The trunk's output (tokens, width) for `activations` (tokens, width) of rows with `lengths` real tokens.

        Raises:
            StepOrderError: the position is not the next one, or `window` micro-batches are open already.
        """
        self._check("forward", position, self._forwards)
        if len(self._graphs) >= self._window:
            raise StepOrderError(f"{position}: {self._window} micro-batches are open already; send their gradients")
        leaf = activations.detach().requires_grad_(self._wants_gradient)
        output = self._run(leaf, lengths)
        self._graphs[position.micro_batch] = _Graph(leaf=leaf, output=output)
        self._forwards += 1
        return output.detach()

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> torch.Tensor | None:
        """The gradient (tokens, width) at the lower cut, given that at the upper one; then the step, with `apply`.

        None where the client wants no gradient.

        Raises:
            StepOrderError: the position is not the next one, has had no forward, or `apply` comes before its time.
        """
        self._check("backward", position, self._backwards)
        if position.micro_batch not in self._graphs:
            raise StepOrderError(f"backward: {position} has had no forward")
        if apply and self._forwards != self._backwards + 1:
            raise StepOrderError(f"backward.apply: {position} is not the last micro-batch that was sent forward")
        result = self._pull(self._graphs.pop(position.micro_batch), gradient)
        self._backwards += 1
        if apply:
            self._apply()
        return result

    @torch.no_grad()
    def predict(self, activations: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The trunk's output (tokens, width) as it is trained so far; nothing is kept, and no step is begun."""
        adapters.select(self._segment, self._adapter)
        self._segment.train(False)
        return pack(self._segment.trunk(unpack(activations, lengths), mask_of(lengths), self._split), lengths)

    def finish(self, steps: int) -> dict[str, np.ndarray]:
        """The adapter's trunk tensors by PEFT name, after `steps` steps.

        Raises:
            StepOrderError: another number of steps was applied, or a micro-batch is open.
        """
        if steps != self.step or self._forwards:
            raise StepOrderError(f"finish.steps: {steps}, but {self.step} were applied and {self._forwards} are open")
        return adapters.read(self._segment, self._adapter, split=self._split)

    def close(self) -> None:
        """Let go of open micro-batches, gradients and the optimizer's state; nothing may follow."""
        self._graphs.clear()
        self._optimizer.zero_grad(set_to_none=True)
        self._optimizer.state.clear()
        self._optimizer.param_groups.clear()

    def _run(self, leaf: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        adapters.select(self._segment, self._adapter)
        self._segment.train(self._dropout)
        hidden = unpack(leaf, lengths)  # (rows, longest, width)
        return pack(self._segment.trunk(hidden, mask_of(lengths), self._split), lengths)

    def _pull(self, graph: _Graph, gradient: torch.Tensor) -> torch.Tensor | None:
        adapters.select(self._segment, self._adapter)
        torch.autograd.backward(graph.output, gradient)
        if self._wants_gradient and graph.leaf.grad is None:
            raise RuntimeError("the trunk's output does not depend on its input")
        return graph.leaf.grad

    def _apply(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._forwards = self._backwards = 0

    def _check(self, kind: str, position: Position, expected: int) -> None:
        if (position.step, position.micro_batch) != (self.step, expected):
            want = Position(step=self.step, micro_batch=expected)
            raise StepOrderError(f"{kind}: got {position}, expected {want}")
