"""One frozen base for all sessions of a run, and the adapters that are lent to them.

Adapters are kept in slots that sessions take and give back, so that a session costs no new modules. All methods
but the constructor and `check_split` run on the compute thread.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from elsa.errors import CapacityError, MalformedError
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.segment import Segment
from elsa.model.skeleton import skeleton
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec, Split
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.session import TrunkSession

GLOBAL_SLOT = "default"
OWN_SLOT = "own"
"""For predictions under a trunk that is one client's or one cluster's alone."""


class EdgeTrunk:
    """The blocks of one run that this edge holds.

    Raises:
        ModelError: the checkpoint cannot be loaded or carved.
        CapacityError: the weights are larger than `memory_bytes`.
    """

    def __init__(self, spec: RunSpec, checkpoint: Checkpoint, config: AdapterConfig, memory_bytes: int) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.config = config
        labels = len(spec.data.labels)
        bones = skeleton(checkpoint, spec.model.task, labels)
        blocks = trunk_blocks(spec, len(bones.blocks))
        needed = sum(p.numel() * p.itemsize for index in blocks for p in bones.blocks[index].parameters())
        if needed > memory_bytes:
            raise CapacityError(
                f"blocks {blocks.start} to {blocks.stop - 1} of {spec.model.source} need {needed / 2**20:.0f} MiB, "
                f"{memory_bytes / 2**20:.0f} MiB may be used; raise max_memory_mib or give clients more blocks"
            )
        self.segment = Segment.edge(checkpoint, blocks, task=spec.model.task, num_labels=labels)
        adapters.attach(self.segment, config, GLOBAL_SLOT)
        self._in_own_slot: Mapping[str, np.ndarray] | None = None
        self._free: list[str] = []
        self._slots = 0

    def check_split(self, split: Split, field: str) -> None:
        """Raise MalformedError naming `field` if the blocks of this trunk do not make `split` possible."""
        total, owned = self.segment.blocks_total, self.segment.owned
        if split.blocks != total:
            raise MalformedError(f"{field}: {split} is of {split.blocks} blocks; the model has {total}")
        if missing := sorted(set(split.trunk_blocks) - owned):
            raise MalformedError(f"{field}: {split} needs block {missing[0]}; this edge has {sorted(owned)}")

    def open_session(self, split: Split, window: int, start: Mapping[str, np.ndarray]) -> tuple[str, TrunkSession]:
        """A slot and a session on it that starts from the whole adapter `start`."""
        slot = self._free.pop() if self._free else self._new_slot()
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
            self._free.append(slot)
            raise
        return slot, session

    def free(self, slot: str) -> None:
        """Take a slot back."""
        self._free.append(slot)

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
        if self._in_own_slot is None:
            adapters.attach(self.segment, self.config, OWN_SLOT)
        if self._in_own_slot is not own:
            whole = adapters.names(self.segment) <= own.keys()
            adapters.write(self.segment, own, OWN_SLOT, None if whole else split)
            self._in_own_slot = own

    def _new_slot(self) -> str:
        self._slots += 1
        slot = f"slot{self._slots}"
        adapters.attach(self.segment, self.config, slot)
        return slot


def trunk_blocks(spec: RunSpec, blocks: int) -> range:
    """The blocks that an edge needs for every split of a run. Raises SplitError."""
    splits = [part.of(blocks) for part in (spec.split, *spec.splits.values())]
    return range(min(s.trunk_blocks.start for s in splits), max(s.trunk_blocks.stop for s in splits))
