"""A few blocks and the ends of a model with random values: what devices measure on before they load any weight.

Random rows of the length and number of a run's, through the run's own code, with its adapter attached.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.architecture import block_index
from elsa.model.recompute import Recomputed
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec, Split


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a model calls a block with, besides the states: masks, positions and the like."""

    more: tuple[Any, ...]
    named: Mapping[str, Any]

    def tensors(self) -> Iterator[torch.Tensor]:
        """All tensors in it, which blocks of a model share."""
        yield from _tensors((self.more, self.named))


class Sample:
    """A segment with `blocks` blocks and perhaps both ends, and the adapter `config` as often as it is asked for.

    Args:
        ends: also what stands before and after the blocks.
        blocks: 1 to all of the model but one.
        checkpointing: None: as the run has it.
        vocabulary: also the embeddings, and the head of a language model.
    """

    def __init__(
        self,
        spec: RunSpec,
        checkpoint: Checkpoint,
        config: AdapterConfig,
        *,
        ends: bool,
        blocks: int = 1,
        checkpointing: bool | None = None,
        vocabulary: bool = True,
    ) -> None:
        self.segment = Segment.sample(
            checkpoint,
            ends=ends,
            blocks=blocks,
            task=spec.model.task,
            num_labels=len(spec.data.labels),
            base=spec.model.base_dtype,
            checkpointing=spec.training.checkpointing if checkpointing is None else checkpointing,
            vocabulary=vocabulary,
        )
        self._config = config
        self._places = sorted(self.segment.owned)
        self.segment.train(spec.training.dropout)

    @property
    def ends_split(self) -> Split:
        """Under which `top` runs the head alone."""
        return Split(bottom=1, trunk=self.segment.blocks_total - 1, top=0)

    @property
    def block_paths(self) -> tuple[str, ...]:
        """Where the blocks stand in the model."""
        return tuple(f"{self.segment.architecture.blocks}.{place}" for place in self._places)

    def attach(self, name: str = "default") -> None:
        """Put an adapter of that name on it and select it."""
        adapters.attach(self.segment, self._config, name)

    def trained(self, name: str = "default", *, block: bool) -> list[nn.Parameter]:
        """What the adapter trains in the blocks, or outside them."""
        named = zip(sorted(adapters.names(self.segment)), adapters.parameters(self.segment, name), strict=True)
        family = self.segment.architecture
        return [parameter for saved, parameter in named if (block_index(saved, family) is not None) is block]

    def frozen(self) -> list[torch.Tensor]:
        """Everything that is there whether it runs or not."""
        return [*self.segment.model.parameters(), *self.segment.model.buffers()]

    @torch.no_grad()
    def calls(self, batch: Batch) -> list[Call]:
        """How the model calls each of its blocks for this batch."""
        seen: list[Call] = []

        def see(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(Call(more=args[1:], named=named))

        with ExitStack() as hooks:
            for path in self.block_paths:
                block = self.segment.model.get_submodule(path)
                hooks.enter_context(block.register_forward_pre_hook(see, with_kwargs=True))
            places = range(self._places[0], self._places[-1] + 1)
            self.segment.through(self.states(batch), batch.attention_mask, places)
        return seen

    def run_blocks(self, states: torch.Tensor, calls: Sequence[Call]) -> torch.Tensor:
        """States (batch, tokens, width) through the blocks as the model calls them, to the same shape."""
        for path, call in zip(self.block_paths, calls, strict=True):
            block = self.segment.model.get_submodule(path)
            given = (Recomputed(block) if self.segment.checkpointing else block)(states, *call.more, **call.named)
            states = given[0] if isinstance(given, tuple) else given
        return states

    def states(self, batch: Batch) -> torch.Tensor:
        """Random states (batch, tokens, width), the same at each call."""
        draw = torch.Generator().manual_seed(0)
        return torch.randn(*batch.input_ids.shape, self.segment.width, generator=draw)

    def batch(self, rows: int, tokens: int, *, padded: bool) -> Batch:
        """Random rows of so many tokens; with `padded` the last is one shorter, so that a mask is needed."""
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.segment.config.vocab_size, (rows, tokens), generator=draw)
        mask = torch.ones_like(ids)
        if padded:
            mask[-1, -1] = 0
        labels = ids if self.segment.task == "causal-lm" else torch.zeros(rows, dtype=torch.int64)
        return Batch(input_ids=ids, attention_mask=mask, token_type_ids=None, labels=labels)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
