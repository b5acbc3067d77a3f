"""Blocks that keep only what enters them between forward and backward, and run again in the backward.

The second run is as the first was: under the same adapter, whichever is selected by then, with dropout on or off as
it was, and with the same draws. These come from torch's one generator of the process, so that with dropout no other
thread may draw meanwhile; whoever begins runs sees to that.
"""

from types import TracebackType
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputed(nn.Module):
    """Stands for a block for the time of a phase."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives."""
        if not torch.is_grad_enabled():
            return self._block(*args, **kwargs)
        return checkpoint(
            self._block,
            *args,
            use_reentrant=False,
            preserve_rng_state=self._block.training,
            context_fn=lambda: (_AsNow(self._block), _AsNow(self._block)),
            **kwargs,
        )


class _AsNow:
    """A context, for any number of times, in which a block has the adapter and the dropout that it has now."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._training = block.training
        self._layers = [module for module in block.modules() if isinstance(module, BaseTunerLayer)]
        self._active = [layer._active_adapter for layer in self._layers]
        self._before: tuple[bool, list[Any]] = (self._training, self._active)

    def __enter__(self) -> None:
        self._before = (self._block.training, [layer._active_adapter for layer in self._layers])
        self._set(self._training, self._active)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set(*self._before)

    def _set(self, training: bool, active: list[Any]) -> None:
        if self._block.training != training:
            self._block.train(training)
        for layer, adapter in zip(self._layers, active, strict=True):
            layer._active_adapter = adapter
