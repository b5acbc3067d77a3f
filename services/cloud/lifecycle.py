"""The states of a run and the one table of moves between them."""

from collections.abc import Mapping
from enum import StrEnum

from elsa.errors import RoundGivenUpError


class RunState(StrEnum):
    """Where a run stands; the words are those of `elsa.v1.RunState`."""

    PENDING = "pending"
    ENROLLING = "enrolling"
    WARMUP = "warmup"
    CLUSTERING = "clustering"
    TRAINING = "training"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return not MOVES[self]


_ENDS = frozenset({RunState.FAILED, RunState.CANCELLED})

MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.PENDING: _ENDS | {RunState.ENROLLING},
    RunState.ENROLLING: _ENDS | {RunState.WARMUP, RunState.CLUSTERING},
    RunState.WARMUP: _ENDS | {RunState.CLUSTERING},
    RunState.CLUSTERING: _ENDS | {RunState.TRAINING},
    RunState.TRAINING: _ENDS | {RunState.COMPLETED},
    RunState.COMPLETED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}
"""What may follow each state."""


def check_move(run_id: str, before: RunState, after: RunState) -> None:
    """Raise RoundGivenUpError if a run in state `before` may not go to `after`."""
    if after not in MOVES[before]:
        raise RoundGivenUpError(f"run {run_id} is {before} and cannot become {after}")
