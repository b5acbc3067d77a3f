"""A split plan: what each device does, what it is predicted to take, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from elsa.plan.memory import Need
from elsa.plan.problem import Refusal
from elsa.spec import Split
from elsa.train.phases import PhaseSeconds

Bound = Literal["privacy", "memory", "speed", "cap", "edge", "kept"]
"""What a client's split hangs on: it keeps no more than the bounds for privacy; its memory holds no more; one block
more or less would take it too long; its owner's cap on the bottom; its edge has no room for more; the plan before."""


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """One client's part."""

    name: str
    edge: str
    split: Split
    seconds: PhaseSeconds
    """Of a step, on average. `wait` is what it waits while the edge computes for other clients (`queueing.py`)."""
    need: Need
    bound: Bound
    reason: str
    """On one line."""


@dataclass(frozen=True, kw_only=True)
class EdgePlan:
    """One edge's part."""

    name: str
    sessions: int
    step_s: float
    """Makespan: what a step of all its clients takes at least."""
    best_s: float
    """The least makespan that there is; `step_s` may exceed it, for shorter waits or to keep the plan before."""
    load_s: float
    """What its compute thread works in a step of all its clients."""
    expected_s: float
    """What a step takes its slowest client, waiting included; not below `step_s` but by rounding."""
    need: Need
    note: str
    """What becomes of the plan before, on one line."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who does what, by name, in the order of names; edges without clients are left out."""

    clients: Mapping[str, ClientPlan]
    edges: Mapping[str, EdgePlan]
    refused: tuple[Refusal, ...]

    @property
    def step_s(self) -> float:
        """Makespan of a step of the whole round: its slowest edge's."""
        return max(edge.step_s for edge in self.edges.values())
