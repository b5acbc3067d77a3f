"""What a run takes of this edge's memory, reckoned before anything of it is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from elsa.errors import CapacityError
from elsa.plan.admission import by_kind, sized
from elsa.plan.memory import EdgeNeeds, Need, edge_needs
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import RunSpec
from services.edge.trunk import trunk_blocks


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One run at this edge.

    Attributes:
        held: the blocks that the edge holds, whatever the splits.
        must: blocks of a session that the edge must have memory for: the most where splits are given, one where they
            are planned, since a plan brings as many as fit.
        memory_bytes: what may be taken beyond the process without this run.
    """

    source: str
    shape: ModelShape
    workload: Workload
    held: range
    must: int
    planned: bool
    memory_bytes: int

    @classmethod
    def of(cls, spec: RunSpec, shape: ModelShape, memory_bytes: int) -> "Fit":
        """Of a run of a model of that shape. Raises SplitError where it has too few blocks."""
        held = trunk_blocks(spec, shape.blocks)
        trunks = [split.of(shape.blocks).trunk for split in (spec.split, *spec.splits.values())]
        return cls(
            source=spec.model.source,
            shape=shape,
            workload=Workload.of(spec, shape.width, spec.model.max_tokens),
            held=held,
            planned=spec.plans_splits,
            must=1 if spec.plans_splits else max(trunks),
            memory_bytes=memory_bytes,
        )

    def check(self, *, at_least: bool = False) -> None:
        """Raise CapacityError, with what is needed by kind and what is there, unless one session fits.

        Args:
            at_least: the shape is only counted, with 0 activations, so that more is needed than is said.
        """
        need = self._needs().of(1, self.must)
        if need.total <= self.memory_bytes:
            return
        remedies = ["raise max_memory_mib, or give clients more blocks", *self._remedies(at_least)]
        raise CapacityError(
            f"blocks {self.held.start} to {self.held.stop - 1} of {self.source} and one session need "
            f"{_words(need, at_least)} ({by_kind(need)}), {sized(self.memory_bytes)} are there; "
            f"{'; or '.join(remedies)}"
        )

    @property
    def sessions(self) -> int:
        """For how many sessions of so many blocks there is memory; in a plan, fewer may have to do with more each."""
        needs = self._needs()
        session = needs.of(1, self.must).total - needs.base.total
        return max((self.memory_bytes - needs.base.total) // session, 1)

    @property
    def most_blocks(self) -> int:
        """Blocks of one session that there is memory for, forward and backward; at most those that are held."""
        needs = self._needs()
        left = self.memory_bytes - needs.of(1, 0).total
        return min(left // needs.session_block.total, len(self.held))

    def promised(self, sessions: int) -> int:
        """Bytes that so many sessions may take: a plan may bring each all blocks, within the memory there is."""
        most = self._needs().of(sessions, sessions * max(self.must, len(self.held) if self.planned else 0)).total
        return min(most, self.memory_bytes)

    def _needs(self, workload: Workload | None = None) -> EdgeNeeds:
        return edge_needs(self.shape, workload or self.workload, len(self.held))

    def _remedies(self, at_least: bool) -> Iterator[str]:
        """What the run's specification could say otherwise, each with what would be needed then."""
        asked = {
            "training.checkpointing: true": replace(self.workload, checkpointing=True),
            "model.base_dtype: int8": replace(self.workload, base="int8"),
            f"training.micro_batches: {self.workload.rows}": replace(self.workload, micro_batches=self.workload.rows),
        }
        if at_least:  # what that spares is not known yet
            del asked["training.checkpointing: true"]
        for setting, workload in asked.items():
            if workload != self.workload:
                yield f"ask for {setting}, which needs {_words(self._needs(workload).of(1, self.must), at_least)}"


def _words(need: Need, at_least: bool) -> str:
    return ("at least " if at_least else "") + sized(need.total)
