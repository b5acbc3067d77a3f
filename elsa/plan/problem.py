"""What a split plan is made from: a run's figures, its devices, who trains where, and what stood before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from elsa.errors import SplitError
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import Split


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A device that takes no part, and why, on one line with the figures."""

    name: str
    role: Literal["client", "edge"]
    reason: str

    def __str__(self) -> str:
        return f"{self.role} {self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A client's part in the plan before."""

    edge: str
    split: Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Devices of one run; their order does not matter.

    Raises:
        SplitError: for bounds that leave no trunk.
        ValueError: if a client or an edge is there twice.
    """

    model: ModelShape
    workload: Workload
    clients: tuple[ClientProfile, ...]
    edges: tuple[EdgeProfile, ...]
    homes: Mapping[str, str]
    """The edge of each client."""
    min_bottom: int = 1
    """Fewest blocks before the cut: a bound for privacy, as is `min_top`."""
    min_top: int = 0
    """Fewest blocks after the trunk."""
    previous: Mapping[str, Placed] = field(default_factory=dict)
    """The plan before, by client; those that it does not hold are new."""
    faults: tuple[Refusal, ...] = ()
    """Devices whose profile could not be used: told beside those that the planner refuses."""

    def __post_init__(self) -> None:
        if self.min_bottom < 1 or self.min_top < 0 or not self.most_trunk:
            raise SplitError(
                f"min_bottom {self.min_bottom} and min_top {self.min_top} do not do for {self.model.blocks} blocks; "
                f"min_bottom must be 1 or more, min_top 0 or more, both together at most {self.model.blocks - 1}"
            )
        for devices in (self.clients, self.edges):
            if len({device.name for device in devices}) < len(devices):
                raise ValueError("a client or an edge is named twice")

    @property
    def most_trunk(self) -> int:
        """Blocks that lie between the bounds: the largest trunk, and what an edge holds; 0 where there are none.

        An edge holds all that its clients may ever leave to it, so that a new plan makes no edge load anything.
        """
        return max(self.model.blocks - self.min_bottom - self.min_top, 0)
