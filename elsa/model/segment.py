"""A part of a Hugging Face model: the model itself with what is not owned replaced by pass-throughs.

The client owns both ends, the edge a range of blocks, the whole everything. Names and block numbers never
change, and masks and positions are the model's own code. A phase (bottom, trunk, top) runs the model with
the rest swapped out for the time of the call, so a segment serves any split that it owns the blocks of, and
`hold` changes which these are. A segment is for one thread at a time.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from elsa.errors import SplitError
from elsa.model.alone import alone, building
from elsa.model.bare import strip
from elsa.model.carving import carve, without_vocabulary
from elsa.model.held import hold_as
from elsa.model.loading import fill, load
from elsa.model.phases import Phases, check_split
from elsa.model.skeleton import Skeleton, head_modules, skeleton
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, Split, Task

if TYPE_CHECKING:
    from elsa.model.adapter import Attached


class Segment(Phases):
    """What one role holds of a task model, frozen, and the phases that it can run.

    Attributes:
        config: the Hugging Face configuration.
        architecture: the family.
        model: the carved task model (with an adapter attached: the same object, LoRA layers inside).
        task: 'classification' or 'causal-lm'.
        blocks_total: M, blocks of the whole model.
        owned: numbers of the blocks held here.
        ends: whether embeddings, final norm and head are held here.
        base: in what frozen weights are held; states and adapters are float32 whichever.
        checkpointing: whether blocks keep only what enters them between forward and backward.
        width: size of a hidden state.
        new_modules: last names of head modules that the checkpoint lacks and that were drawn from the seed.
        attached: the adapters on it; `elsa.model.adapter` keeps them.
    """

    def __init__(
        self,
        bones: Skeleton,
        owned: Collection[int],
        *,
        ends: bool,
        base: BaseDtype,
        checkpointing: bool,
        trained: tuple[str, ...] = (),
        new: tuple[str, ...] = (),
    ) -> None:
        """Carve the skeleton, without values yet; use `client`, `edge`, `whole` or `sample` to make one."""
        super().__init__(bones, owned, ends=ends, checkpointing=checkpointing)
        self.base = base
        self.attached: Attached | None = None
        self.new_modules = tuple(path.rpartition(".")[2] for path in new)
        carve(bones, self.owned, ends=ends, stand_in=self._idle)
        hold_as(bones, base, trained)

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
        check_split(split, bones.config.num_hidden_layers)
        owned = set(range(split.blocks)) - set(split.trunk_blocks)
        return cls._loaded(checkpoint, bones, owned, ends=True, base=base, checkpointing=checkpointing, seed=seed)

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
        return cls._loaded(checkpoint, bones, blocks, ends=False, base=base, checkpointing=checkpointing)

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
        return cls._loaded(checkpoint, bones, owned, ends=True, base=base, checkpointing=checkpointing, seed=seed)

    @classmethod
    @alone
    def sample(
        cls,
        checkpoint: Checkpoint,
        *,
        ends: bool,
        blocks: int = 1,
        task: Task,
        num_labels: int = 0,
        base: BaseDtype = "float32",
        checkpointing: bool = False,
        vocabulary: bool = True,
    ) -> "Segment":
        """Blocks with random values, to measure on: with `ends` from block 0 on and both ends, else from block 1 on.

        No weight is read from the checkpoint, which need not have any yet. `bottom` and `top` of Split(1, M-1, 0) run
        the embeddings with the block and the head alone, `trunk` of Split(1, 1, M-2) runs an edge's, and `through`
        the block alone. The head is held as one that is trained. Without `vocabulary` there are no embeddings and no
        head of a language model, which may be larger than all else: `final` runs, and `top` of a classifier.
        Raises as `client`.
        """
        bones = skeleton(checkpoint, task, num_labels)
        heads = checkpoint.architecture.head_paths(task) if task == "classification" else ()
        owned = range(blocks) if ends else range(1, 1 + blocks)
        segment = cls(bones, owned, ends=ends, base=base, checkpointing=checkpointing, trained=heads)
        if ends and not vocabulary:
            without_vocabulary(bones, segment._idle)
        fill(segment.model, checkpoint)
        return segment

    @classmethod
    def _loaded(
        cls,
        checkpoint: Checkpoint,
        bones: Skeleton,
        owned: Collection[int],
        *,
        ends: bool,
        base: BaseDtype,
        checkpointing: bool,
        seed: int = 0,
    ) -> "Segment":
        """Carved alone; loaded, which may take long, beside whatever else builds a model."""
        trained, new = head_modules(bones, checkpoint) if ends else ((), ())
        with building():
            segment = cls(bones, owned, ends=ends, base=base, checkpointing=checkpointing, trained=trained, new=new)
        load(segment.model, checkpoint, new, seed, bones.config.initializer_range)
        return segment

    @alone
    def hold(self, checkpoint: Checkpoint, blocks: Collection[int]) -> None:
        """Own exactly these blocks from now on: free the others, then load the new ones and no other tensor.

        Blocks that stay are the same objects. Adapters are detached first, so what was trained is to be read before
        and to be written after another `attach`; sessions and optimizers of theirs are of no use any more.

        Args:
            checkpoint: of the same model; it needs the new blocks alone.
            blocks: numbers of blocks, any.

        Raises:
            SplitError: if the model lacks one; nothing is changed then.
            CheckpointError: if a new block cannot be read; the segment owns those that stay then, without adapter.
        """
        if outside := sorted(set(blocks) - set(range(self.blocks_total))):
            raise SplitError(f"the model has no blocks {outside}; choose among [0, {self.blocks_total})")
        strip(self.model)
        self.attached = None
        added = frozenset(blocks) - self.owned
        held = self.model.get_submodule(self.architecture.blocks)
        self.owned &= frozenset(blocks)
        for index in set(range(self.blocks_total)) - self.owned:
            held[index] = self._idle
        if not added:
            return
        bones = skeleton(checkpoint, self.task, self.config.num_labels)
        more = type(self)._loaded(
            checkpoint, bones, added, ends=False, base=self.base, checkpointing=self.checkpointing
        )
        more.train(self.model.training)
        for index in added:
            held[index] = bones.blocks[index]
        self.owned |= added
