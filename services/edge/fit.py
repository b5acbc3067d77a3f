"""What a run takes of this edge's memory, reckoned before anything of it is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from elsa.errors import CapacityError
from elsa.plan.admission import by_kind, mebibytes
from elsa.plan.memory import EdgeNeeds, edge_needs
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import RunSpec
from services.edge.trunk import trunk_blocks


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One run at this edge.

    Attributes:
        held: the blocks that the edge holds, whatever the splits.
        smallest, largest: blocks that a session trains, as the run allows them.
        memory_bytes: what may be taken beyond the process without this run.
    """

    source: str
    shape: ModelShape
    workload: Workload
    held: range
    smallest: int
    largest: int
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
            smallest=1 if spec.plans_splits else min(trunks),
            largest=max(trunks),
            memory_bytes=memory_bytes,
        )

    def check(self) -> None:
        """Raise CapacityError, with what is needed by kind and what is there, unless one session fits."""
        need = self._needs().of(1, self.smallest)
        if need.total <= self.memory_bytes:
            return
        remedies = ["raise max_memory_mib, or give clients more blocks", *self._remedies()]
        raise CapacityError(
            f"blocks {self.held.start} to {self.held.stop - 1} of {self.source} and one session need "
            f"{mebibytes(need.total)} ({by_kind(need)}), {mebibytes(self.memory_bytes)} are there: "
            f"{'; or '.join(remedies)}"
        )

    @property
    def sessions(self) -> int:
        """For how many sessions of the largest trunk there is memory; 1 where there is for a smaller one alone."""
        needs = self._needs()
        session = needs.of(1, self.largest).total - needs.base.total
        return max((self.memory_bytes - needs.base.total) // session, 1)

    def _needs(self, workload: Workload | None = None) -> EdgeNeeds:
        return edge_needs(self.shape, workload or self.workload, len(self.held))

    def _remedies(self) -> Iterator[str]:
        """What the run's specification could say otherwise, each with what would be needed then."""
        asked = {
            "training.checkpointing: true": replace(self.workload, checkpointing=True),
            "model.base_dtype: int8": replace(self.workload, base="int8"),
            f"training.micro_batches: {self.workload.rows}": replace(self.workload, micro_batches=self.workload.rows),
        }
        for setting, workload in asked.items():
            if workload != self.workload:
                needed = self._needs(workload).of(1, self.smallest).total
                yield f"ask for {setting}, which needs {mebibytes(needed)}"
