"""A part of a Hugging Face model: the model itself with what is not owned replaced by pass-throughs.

The client owns both ends, the edge a range of blocks, the whole everything. Names and block numbers never
change, and masks and positions are the model's own code. A phase (bottom, trunk, top) runs the model with
the rest swapped out for the time of the call, so a segment serves any split that it owns the blocks of. A
segment is for one thread at a time.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from elsa.errors import SplitError
from elsa.model.alone import alone
from elsa.model.carving import carve
from elsa.model.loading import load
from elsa.model.skeleton import Skeleton, head_modules, skeleton
from elsa.model.stand_in import Feed, PassThrough, swapped
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, Split, Task

if TYPE_CHECKING:
    from elsa.model.adapter import Attached


_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Segment:
    """What one role holds of a task model, frozen, and the phases that it can run.

    Attributes:
        config: the Hugging Face configuration.
        architecture: the family.
        model: the carved task model (with an adapter attached: the same object, LoRA layers inside).
        task: 'classification' or 'causal-lm'.
        blocks_total: M, blocks of the whole model.
        owned: numbers of the blocks held here.
        ends: whether embeddings, final norm and head are held here.
        width: size of a hidden state.
        new_modules: last names of head modules that the checkpoint lacks and that were drawn from the seed.
        attached: the adapters on it; `elsa.model.adapter` keeps them.
    """

    @alone
    def __init__(
        self,
        checkpoint: Checkpoint,
        bones: Skeleton,
        owned: Iterable[int],
        *,
        ends: bool,
        base: BaseDtype,
        checkpointing: bool,
        seed: int,
    ) -> None:
        """Carve the skeleton and load what is left; use `client`, `edge` or `whole` to make one."""
        self.config = bones.config
        self.architecture = bones.architecture
        self.model = bones.model
        self.task = bones.task
        self.blocks_total: int = bones.config.num_hidden_layers
        self.owned = frozenset(owned)
        self.ends = ends
        self.width: int = bones.config.hidden_size
        self.attached: Attached | None = None
        self._idle = PassThrough()
        _, new = head_modules(bones, checkpoint) if ends else ((), ())
        self.new_modules = tuple(path.rpartition(".")[2] for path in new)
        carve(bones, self.owned, ends=ends, stand_in=self._idle)
        load(self.model, checkpoint, new, _TYPES[base], seed, bones.config.initializer_range)

    @classmethod
    def client(
        cls,
        checkpoint: Checkpoint,
        split: Split,
        *,
        task: Task,
        num_labels: int = 0,
        base: BaseDtype = "float32",
        checkpointing: bool = False,
        seed: int = 0,
    ) -> "Segment":
        """Embeddings, blocks [0, p) and [M-o, M), final norm and head.

        Raises:
            SplitError: if the split is of another number of blocks than the model's.
            CheckpointError: if an owned tensor is missing or cannot be read.
            ArchitectureError: if the family cannot do the task.
        """
        bones = skeleton(checkpoint, task, num_labels)
        _check(split, bones.config.num_hidden_layers)
        owned = set(range(split.blocks)) - set(split.trunk_blocks)
        return cls(checkpoint, bones, owned, ends=True, base=base, checkpointing=checkpointing, seed=seed)

    @classmethod
    def edge(
        cls,
        checkpoint: Checkpoint,
        blocks: range,
        *,
        task: Task,
        num_labels: int = 0,
        base: BaseDtype = "float32",
        checkpointing: bool = False,
    ) -> "Segment":
        """A range of blocks and nothing else. Raises as `client`; SplitError if the model lacks the blocks."""
        bones = skeleton(checkpoint, task, num_labels)
        total = bones.config.num_hidden_layers
        if not blocks or blocks.step != 1 or blocks.start < 0 or blocks.stop > total:
            raise SplitError(
                f"blocks [{blocks.start}, {blocks.stop}) are not a part of a model of {total} blocks; "
                f"choose a non-empty range within [0, {total})"
            )
        return cls(checkpoint, bones, blocks, ends=False, base=base, checkpointing=checkpointing, seed=0)

    @classmethod
    def whole(
        cls,
        checkpoint: Checkpoint,
        *,
        task: Task,
        num_labels: int = 0,
        base: BaseDtype = "float32",
        checkpointing: bool = False,
        seed: int = 0,
    ) -> "Segment":
        """The unsplit model. Raises as `client`."""
        bones = skeleton(checkpoint, task, num_labels)
        owned = range(bones.config.num_hidden_layers)
        return cls(checkpoint, bones, owned, ends=True, base=base, checkpointing=checkpointing, seed=seed)

    @classmethod
    def sample(
        cls,
        checkpoint: Checkpoint,
        *,
        ends: bool,
        task: Task,
        num_labels: int = 0,
        base: BaseDtype = "float32",
        checkpointing: bool = False,
    ) -> "Segment":
        """One block with random values to measure times on: with `ends` block 0 and both ends, else block 1.

        No weight is read. `through` runs the block alone; `bottom` and `top` of Split(1, M-1, 0) run embeddings and
        block, and the head alone; `trunk` of Split(1, 1, M-2) runs an edge's.
        """
        raise NotImplementedError

    def hold(self, checkpoint: Checkpoint, blocks: Collection[int]) -> None:
        """Own exactly these blocks from now on: free the others, then load the new ones; adapters are detached."""
        raise NotImplementedError

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
        _check(split, self.blocks_total)
        return self._embed_and_run(input_ids, attention_mask, token_type_ids, range(split.bottom))

    def trunk(self, hidden: torch.Tensor, attention_mask: torch.Tensor, split: Split) -> torch.Tensor:
        """States (batch, tokens, width) through the trunk's blocks, to the same shape. Raises as `bottom`."""
        _check(split, self.blocks_total)
        return self.through(hidden, attention_mask, split.trunk_blocks)

    def through(self, hidden: torch.Tensor, attention_mask: torch.Tensor, blocks: range) -> torch.Tensor:
        """States (batch, tokens, width) through these blocks alone, to the same shape. Raises as `bottom`."""
        self._need(blocks, ends=False)
        with swapped(self.model, [*self._fed(hidden), *self._silenced(), *self._outside(blocks)]):
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
        _check(split, self.blocks_total)
        return self._run_to_logits(hidden, attention_mask, range(split.blocks - split.top, split.blocks))

    def final(self, hidden: torch.Tensor, attention_mask: torch.Tensor, split: Split) -> torch.Tensor:
        """States (batch, tokens, width) through blocks [M-o, M) and the final norm, without pooler or head.

        Raises SplitError as `bottom`.
        """
        _check(split, self.blocks_total)
        blocks, pooler = range(split.blocks - split.top, split.blocks), self.architecture.pooler
        self._need(blocks, ends=True)
        silenced = [] if pooler is None else [(pooler, self._idle)]
        with swapped(self.model, [*self._fed(hidden), *silenced, *self._outside(blocks)]):
            return self._backbone(torch.zeros_like(attention_mask), attention_mask)

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
        with swapped(self.model, [*self._silenced(), *self._outside(blocks)]):
            return self._backbone(input_ids, attention_mask, **more)

    def _run_to_logits(self, hidden: torch.Tensor, attention_mask: torch.Tensor, blocks: range) -> torch.Tensor:
        self._need(blocks, ends=True)
        # Decoders classify the last token that is not padding by number: say so by numbers made from the mask.
        padding = self.config.pad_token_id
        marks = torch.where(attention_mask.bool(), padding + 1, padding)  # (batch, tokens)
        with swapped(self.model, [*self._fed(hidden), *self._outside(blocks)]):
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

    def _outside(self, blocks: range) -> Iterator[tuple[str, nn.Module]]:
        for index in range(self.blocks_total):
            if index not in blocks:
                yield f"{self.architecture.blocks}.{index}", self._idle

    def _need(self, blocks: range, *, ends: bool) -> None:
        missing = sorted(set(blocks) - self.owned)
        if missing or (ends and not self.ends):
            what = f"blocks {missing}" if missing else "the embeddings and the head"
            raise SplitError(
                f"this segment owns blocks {sorted(self.owned)} and cannot run {what}; "
                "choose a split within what it owns"
            )


def _check(split: Split, blocks: int) -> None:
    if split.blocks != blocks:
        raise SplitError(
            f"split {split} is of {split.blocks} blocks and the model has {blocks}; "
            f"choose bottom + trunk + top = {blocks}"
        )
