"""What a part of a model can run: the model with the rest swapped out for the time of a call."""

from collections.abc import Collection, Iterator

import torch
from torch import nn

from elsa.errors import SplitError
from elsa.model.recompute import Recomputed
from elsa.model.skeleton import Skeleton
from elsa.model.stand_in import Feed, PassThrough, swapped
from elsa.spec import Split


class Phases:
    """Runs bottom, trunk and top of a model that owns some blocks and perhaps both ends; see `Segment`."""

    def __init__(self, bones: Skeleton, owned: Collection[int], *, ends: bool, checkpointing: bool) -> None:
        """Run the model of `bones`, of which these blocks and perhaps the ends are there."""
        self.config = bones.config
        self.architecture = bones.architecture
        self.model = bones.model
        self.task = bones.task
        self.blocks_total: int = bones.config.num_hidden_layers
        self.owned = frozenset(owned)
        self.ends = ends
        self.checkpointing = checkpointing
        self.width: int = bones.config.hidden_size
        self._idle = PassThrough()

    def train(self, mode: bool) -> None:
        """Run the model's own dropout from now on, or not."""
        if self.model.training != mode:
            self.model.train(mode)

    def bottom(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        *,
        split: Split,
    ) -> torch.Tensor:
        """Token numbers through embeddings and blocks [0, p).

        Args:
            input_ids: (batch, tokens), integers.
            attention_mask: (batch, tokens), 1 for a real token, 0 for padding, which is on the right.
            token_type_ids: (batch, tokens) or None; not read where the family has none.
            split: the cut.

        Returns:
            Hidden states (batch, tokens, width).

        Raises:
            SplitError: if this segment does not own what the phase needs.
        """
        check_split(split, self.blocks_total)
        return self._embed_and_run(input_ids, attention_mask, token_type_ids, range(split.bottom))

    def trunk(self, hidden: torch.Tensor, attention_mask: torch.Tensor, split: Split) -> torch.Tensor:
        """States (batch, tokens, width) through the trunk's blocks, to the same shape. Raises as `bottom`."""
        check_split(split, self.blocks_total)
        return self.through(hidden, attention_mask, split.trunk_blocks)

    def through(self, hidden: torch.Tensor, attention_mask: torch.Tensor, blocks: range) -> torch.Tensor:
        """States (batch, tokens, width) through these blocks alone, to the same shape. Raises as `bottom`."""
        self._need(blocks, ends=False)
        with swapped(self.model, [*self._fed(hidden), *self._silenced(), *self._blocks(blocks)]):
            return self._backbone(torch.zeros_like(attention_mask), attention_mask)

    def top(
        self, hidden: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor, split: Split
    ) -> torch.Tensor:
        """States (batch, tokens, width) through blocks [M-o, M), final norm and head.

        The mask alone says which tokens are real, so a text may contain the padding token; `input_ids` are
        there for families whose head reads the text, of which none is supported yet.

        Returns:
            Logits: (batch, labels) for classification, (batch, tokens, vocabulary) for causal-lm.

        Raises:
            SplitError: as `bottom`.
        """
        check_split(split, self.blocks_total)
        return self._run_to_logits(hidden, attention_mask, range(split.blocks - split.top, split.blocks))

    def final(self, hidden: torch.Tensor, attention_mask: torch.Tensor, split: Split) -> torch.Tensor:
        """States (batch, tokens, width) through blocks [M-o, M) and the final norm, without pooler or head.

        Raises SplitError as `bottom`.
        """
        check_split(split, self.blocks_total)
        blocks, pooler = range(split.blocks - split.top, split.blocks), self.architecture.pooler
        self._need(blocks, ends=True)
        silenced = [] if pooler is None else [(pooler, self._idle)]
        with swapped(self.model, [*self._fed(hidden), *silenced, *self._blocks(blocks)]):
            return self._backbone(torch.zeros_like(attention_mask), attention_mask)

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """States (rows, tokens, width) after the final norm to logits (rows, tokens, vocabulary) of a language model.

        Each token's logits depend on its own state alone. Raises SplitError as `bottom`.
        """
        self._need(range(0), ends=True)
        mask = torch.ones(states.shape[:2], dtype=torch.int64)
        with swapped(self.model, [*self._fed(states), *self._silenced(), *self._blocks(range(0))]):
            logits: torch.Tensor = self.model(input_ids=mask, attention_mask=mask).logits
        return logits

    def logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The unsplit forward of a whole segment: as `bottom` then `top`. Raises as `bottom`."""
        every, none = range(self.blocks_total), range(0)
        hidden = self._embed_and_run(input_ids, attention_mask, token_type_ids, every)
        return self._run_to_logits(hidden, attention_mask, none)

    def _embed_and_run(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None,
        blocks: range,
    ) -> torch.Tensor:
        self._need(blocks, ends=True)
        more = {}
        if token_type_ids is not None and self.architecture.token_types:
            more["token_type_ids"] = token_type_ids
        with swapped(self.model, [*self._silenced(), *self._blocks(blocks)]):
            return self._backbone(input_ids, attention_mask, **more)

    def _run_to_logits(self, hidden: torch.Tensor, attention_mask: torch.Tensor, blocks: range) -> torch.Tensor:
        self._need(blocks, ends=True)
        # Decoders classify the last token that is not padding by number: say so by numbers made from the mask.
        padding = self.config.pad_token_id
        marks = torch.where(attention_mask.bool(), padding + 1, padding)  # (batch, tokens)
        with swapped(self.model, [*self._fed(hidden), *self._blocks(blocks)]):
            logits: torch.Tensor = self.model(input_ids=marks, attention_mask=attention_mask).logits
        return logits

    def _backbone(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        backbone = self.model.get_submodule(self.architecture.backbone)
        hidden: torch.Tensor = backbone(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        return hidden

    def _fed(self, hidden: torch.Tensor) -> Iterator[tuple[str, nn.Module]]:
        """Embeddings that give these states, and nothing added or applied to them."""
        yield self.architecture.embeddings, Feed(hidden)
        for path in self.architecture.added:
            yield path, Feed(hidden.new_zeros(()))
        for path in self.architecture.after_embeddings:
            yield path, self._idle

    def _silenced(self) -> Iterator[tuple[str, nn.Module]]:
        """No final norm and no pooler, for phases that end before them."""
        for path in (self.architecture.final_norm, self.architecture.pooler):
            if path is not None:
                yield path, self._idle

    def _blocks(self, blocks: range) -> Iterator[tuple[str, nn.Module]]:
        """No blocks but these, and with checkpointing these in a form that runs again in the backward."""
        path = self.architecture.blocks
        for index, block in enumerate(self.model.get_submodule(path)):
            if index not in blocks:
                yield f"{path}.{index}", self._idle
            elif self.checkpointing:
                yield f"{path}.{index}", Recomputed(block)

    def _need(self, blocks: range, *, ends: bool) -> None:
        missing = sorted(set(blocks) - self.owned)
        if missing or (ends and not self.ends):
            what = f"blocks {missing}" if missing else "the embeddings and the head"
            raise SplitError(
                f"this segment owns blocks {sorted(self.owned)} and cannot run {what}; "
                "choose a split within what it owns"
            )


def check_split(split: Split, blocks: int) -> None:
    """Raise SplitError unless the split is of that number of blocks."""
    if split.blocks != blocks:
        raise SplitError(
            f"split {split} is of {split.blocks} blocks and the model has {blocks}; "
            f"choose bottom + trunk + top = {blocks}"
        )
