"""How a global round's time is divided among its edge rounds at an edge: as they have taken it of late.

The first of a version takes longer than the others, since clients evaluate what is new before they train.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

RECENT = 3
"""Times that an edge round's part is told from, the newest."""
LEAST_S = 1.0
"""That an edge round counts for at least: a machine or a network may pause so long without being slow."""


class Timetable:
    """What each edge round of a run's versions took here.

    Args:
        count: edge rounds of a version.
    """

    def __init__(self, count: int) -> None:
        self._taken: list[deque[float]] = [deque(maxlen=RECENT) for _ in range(count)]

    @property
    def taken(self) -> Mapping[int, Sequence[float]]:
        """Seconds of the newest, oldest first, by edge round; of those that closed with their quorum."""
        return {number: tuple(taken) for number, taken in enumerate(self._taken)}

    def resume(self, taken: Mapping[int, Sequence[float]]) -> None:
        """Go on with what was known before a restart."""
        for number, own in enumerate(self._taken):
            own.extend(taken.get(number, ()))

    def add(self, edge_round: int, seconds: float) -> None:
        """An edge round closed with its quorum after so many seconds."""
        self._taken[edge_round].append(seconds)

    def share_s(self, edge_round: int, left_s: float) -> float:
        """How long an edge round may last where `left_s` seconds are left for it and those after it; at least 0.

        In proportion to what each took, in the middle; in equal parts until all of them are known. What earlier ones
        did not use is in what is left.
        """
        left = self._taken[edge_round:]
        each = [max(median(taken), LEAST_S) for taken in left] if all(left) else [1.0] * len(left)
        return max(left_s, 0.0) * each[0] / sum(each)
