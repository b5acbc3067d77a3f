"""One frozen base for all sessions of a run, and the adapters that are lent to them.

Adapters are kept in slots that sessions take and give back, so that a session costs no new modules. All methods
but the constructor and `check_split` run on the compute thread.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from elsa.errors import MalformedError
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec, Split
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.session import TrunkSession
from services.edge.slots import Slots
from services.rpc.memory import give_back

GLOBAL_SLOT = "default"
OWN_SLOT = "own"
"""For predictions under a trunk that is one client's or one cluster's alone."""


class EdgeTrunk:
    """The blocks of one run that this edge holds.

    Raises:
        ModelError: the checkpoint cannot be loaded or carved.
        SplitError: the model has too few blocks for the run's splits.
    """

    def __init__(self, spec: RunSpec, checkpoint: Checkpoint, config: AdapterConfig) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.config = config
        task, labels = spec.model.task, len(spec.data.labels)
        blocks = trunk_blocks(spec, checkpoint.config(task, labels).num_hidden_layers)
        self.segment = Segment.edge(
            checkpoint,
            blocks,
            task=task,
            num_labels=labels,
            base=spec.model.base_dtype,
            checkpointing=spec.training.checkpointing,
        )
        adapters.attach(self.segment, config, GLOBAL_SLOT)
        self.slots = Slots(self.segment, config)
        self._in_own_slot: Mapping[str, np.ndarray] | None = None

    def check_split(self, split: Split, field: str) -> None:
        """Raise MalformedError naming `field` if the blocks of this trunk do not make `split` possible.

        Nor may a split, where they are planned, leave its client fewer blocks than the specification demands.
        """
        total, owned = self.segment.blocks_total, self.segment.owned
        if split.blocks != total:
            raise MalformedError(f"{field}: {split} is of {split.blocks} blocks; the model has {total}")
        for end in ("bottom", "top") if self.spec.plans_splits else ():
            own, least = getattr(split, end), getattr(self.spec.split, end)
            if own < least:
                raise MalformedError(f"{field}.{end}: {own}; in this run each client keeps at least {least}")
        if missing := sorted(set(split.trunk_blocks) - owned):
            raise MalformedError(f"{field}: {split} needs block {missing[0]}; this edge has {sorted(owned)}")

    def open_session(self, split: Split, window: int, start: Mapping[str, np.ndarray]) -> tuple[str, TrunkSession]:
        """A slot and a session on it that starts from the whole adapter `start`."""
        slot = self.slots.take()
        try:
            adapters.write(self.segment, start, slot)
            session = TrunkSession(
                self.segment,
                adapter=slot,
                split=split,
                optimizer=self.spec.training.optimizer,
                window=window,
                dropout=self.spec.training.dropout,
                wants_gradient=self.spec.lora.bottom_adapters,
            )
        except BaseException:
            self.slots.give(slot)
            raise
        return slot, session

    def close_session(self, slot: str, session: TrunkSession) -> None:
        """Free what a session holds, and take its slot back."""
        session.close()
        self.slots.give(slot)

    def drop_idle(self, idle_s: float) -> None:
        """Keep the base and the run's adapter alone, if no session was open and no other used for so many seconds."""
        unused = self.slots.there > 0 or self._in_own_slot is not None
        if not self.slots.drop_idle(idle_s):
            return
        if self._in_own_slot is not None:
            adapters.remove(self.segment, OWN_SLOT)
            self._in_own_slot = None
        if unused:
            give_back()

    def set_global(self, tensors: Mapping[str, np.ndarray]) -> None:
        """The whole adapter that `predict` uses from now on."""
        adapters.write(self.segment, tensors, GLOBAL_SLOT)

    @torch.no_grad()
    def predict(
        self,
        activations: torch.Tensor,
        lengths: Sequence[int],
        split: Split,
        own: Mapping[str, np.ndarray] | None = None,
    ) -> torch.Tensor:
        """The trunk's output (tokens, width) under the run's adapter, or under `own`.

        Args:
            own: a client's own trunk tensors, or the whole adapter of its cluster.
        """
        if own is not None:
            self._fill_own_slot(own, split)
        adapters.select(self.segment, GLOBAL_SLOT if own is None else OWN_SLOT)
        self.segment.train(False)
        return pack(self.segment.trunk(unpack(activations, lengths), mask_of(lengths), split), lengths)

    def _fill_own_slot(self, own: Mapping[str, np.ndarray], split: Split) -> None:
        self.slots.touch()
        if self._in_own_slot is None:
            adapters.attach(self.segment, self.config, OWN_SLOT)
        if self._in_own_slot is not own:
            whole = adapters.names(self.segment) <= own.keys()
            adapters.write(self.segment, own, OWN_SLOT, None if whole else split)
            self._in_own_slot = own


def trunk_blocks(spec: RunSpec, blocks: int) -> range:
    """The blocks that an edge needs for every split of a run, those that a plan may yet bring included.

    Raises SplitError.
    """
    splits = [part.of(blocks) for part in (spec.split, *spec.splits.values())]
    return range(min(s.trunk_blocks.start for s in splits), max(s.trunk_blocks.stop for s in splits))
