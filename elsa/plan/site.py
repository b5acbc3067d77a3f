"""One edge with the clients that it serves, and what any splits of theirs come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from elsa.plan.cost import Crew, Floats, Ints, StepSeconds, step_seconds
from elsa.plan.memory import ClientNeeds, EdgeNeeds
from elsa.plan.problem import Problem
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.queueing import waiting_seconds
from elsa.plan.splits import Splits, possible_splits
from elsa.plan.trunks import Choices


@dataclass(frozen=True, kw_only=True, eq=False)
class Cuts:
    """One split of each of a site's clients, blocks as (N, 1), and what they come to."""

    bottom: Ints
    trunk: Ints
    top: Ints
    seconds: StepSeconds
    load_s: float
    """What the edge's compute thread works in a step of all clients."""
    waits: Floats
    """(N,): what each client waits for the others in a step (`queueing.py`)."""

    @property
    def expected_s(self) -> float:
        """What a step takes the slowest client, waiting included."""
        return float((self.seconds.total[:, 0] + self.waits).max())

    @property
    def makespan_s(self) -> float:
        """The longest step of a client by itself, or the edge's load if that is longer."""
        return max(float(self.seconds.total.max()), self.load_s)

    def differ(self, other: "Cuts") -> bool:
        """Whether some client's split is another one."""
        return bool((self.bottom != other.bottom).any() or (self.trunk != other.trunk).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """An edge with its clients, at least one and all of which it can serve, in the order of their names."""

    problem: Problem
    edge: EdgeProfile
    clients: Sequence[ClientProfile]
    client_needs: ClientNeeds
    edge_needs: EdgeNeeds

    @property
    def trunk_block_s(self) -> float:
        """Seconds of one client's block here while all are in session."""
        return self.edge.block_s_among(len(self.clients))

    @property
    def _besides_s(self) -> float:
        """What the edge computes in a step of all its clients besides their blocks."""
        return self.edge.step_s * len(self.clients)

    @property
    def most_blocks(self) -> int:
        """What the edge's memory allows of the sum of trunks."""
        left = self.edge.memory_bytes - self.edge_needs.of(len(self.clients), 0).total
        all_blocks = len(self.clients) * self.problem.most_trunk
        block = self.edge_needs.session_block.total
        return min(left // block, all_blocks) if block else all_blocks

    @cached_property
    def splits(self) -> Splits:
        """What its clients may choose from."""
        return possible_splits(self.problem, self.client_needs, self.clients)

    @cached_property
    def choices(self) -> Choices:
        """The same with their seconds."""
        seconds = self._seconds(self.splits.bottom, self.splits.trunk, self.splits.top)
        return Choices(
            step_s=np.where(self.splits.fits, seconds.total, np.inf),
            trunk_block_s=self.trunk_block_s,
            besides_s=self._besides_s,
            most_blocks=self.most_blocks,
            own_s=self._crew.block_s * (self.problem.model.blocks - self.splits.trunk),
            block_s=self._crew.block_s[:, 0],
        )

    def chosen(self, trunks: Ints) -> Cuts:
        """Those of `splits` with trunks of these sizes, (N,)."""
        columns = trunks[:, None] - 1
        bottom, top = (
            np.take_along_axis(blocks, columns, axis=1) for blocks in (self.splits.bottom, self.splits.top)
        )
        return self.cuts(bottom, trunks[:, None], top)

    def cuts(self, bottom: Ints, trunk: Ints, top: Ints) -> Cuts:
        """Splits of so many blocks, each (N, 1), whether they are among `splits` or not."""
        seconds, workload = self._seconds(bottom, trunk, top), self.problem.workload
        return Cuts(
            bottom=bottom,
            trunk=trunk,
            top=top,
            seconds=seconds,
            load_s=self.trunk_block_s * int(trunk.sum()) + self._besides_s,
            waits=waiting_seconds(seconds, workload.forward_share, workload.local_steps),
        )

    @cached_property
    def _crew(self) -> Crew:
        return Crew.of(self.clients, self.edge.name)

    def _seconds(self, bottom: Ints, trunk: Ints, top: Ints) -> StepSeconds:
        workload = self.problem.workload
        at_edge = self.trunk_block_s, self.edge.step_s
        return step_seconds(self._crew, workload, *at_edge, bottom=bottom, trunk=trunk, top=top)
