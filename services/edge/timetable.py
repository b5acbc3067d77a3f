"""How a global round's time is divided among its edge rounds at an edge: as they have taken it of late.

The first of a version takes longer than the others, since clients evaluate what is new before they train.

Of an edge round that was cut short it is known that it takes longer than it was given. Those that close with their
quorum get what they take, those that were cut the rest, which is an equal part of each of them at least. So, where
each takes the same time in every version, of at least `LEAST_S`, and all of them fit the whole, the last of those
that were cut closes in the next version: none uses more than it needs, so that the rest is enough for all of those.
Each version has one fewer, and with `count` edge rounds at most `count - 1` versions have any. An edge round that
never ends takes nothing from the others as long as these need no more than half of the whole.
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
        self._cut: dict[int, float] = {}

    @property
    def taken(self) -> Mapping[int, Sequence[float]]:
        """Seconds of the newest, oldest first, by edge round; of those that closed with their quorum."""
        return {number: tuple(taken) for number, taken in enumerate(self._taken)}

    @property
    def cut(self) -> Mapping[int, float]:
        """Seconds that were too few for an edge round, by edge round; of those that have not closed since."""
        return dict(self._cut)

    def resume(self, taken: Mapping[int, Sequence[float]], cut: Mapping[int, float]) -> None:
        """Go on with what was known before a restart."""
        for number, own in enumerate(self._taken):
            own.extend(taken.get(number, ()))
            if number in cut:
                self._cut[number] = cut[number]

    def add(self, edge_round: int, seconds: float) -> None:
        """An edge round closed with its quorum after so many seconds."""
        self._cut.pop(edge_round, None)
        self._taken[edge_round].append(seconds)

    def cut_short(self, edge_round: int, seconds: float) -> None:
        """An edge round was closed by its deadline after so many seconds. Shorter times of it are of no use now."""
        self._cut[edge_round] = seconds
        longer = [taken for taken in self._taken[edge_round] if taken > seconds]
        self._taken[edge_round] = deque(longer, maxlen=RECENT)

    def share_s(self, edge_round: int, left_s: float) -> float:
        """How long an edge round may last where `left_s` seconds are left for it and those after it; at least 0.

        In proportion to what each took, in the middle; in equal parts until something is known of all of them. Where
        some were cut short, as the module says. What earlier ones did not use is in what is left.
        """
        left_s, numbers = max(left_s, 0.0), range(edge_round, len(self._taken))
        if not all(self._taken[number] or number in self._cut for number in numbers):
            return left_s / len(numbers)
        needs = {number: self._needs_s(number) for number in numbers}
        share_s = left_s * needs[edge_round] / sum(needs.values())
        cut = [number for number in numbers if number in self._cut]
        if not cut:
            return share_s
        longest = {number: max(LEAST_S, *self._taken[number]) for number in numbers if number not in self._cut}
        others_s = sum(longest.values())
        rest_s = max(left_s - others_s, left_s * len(cut) / len(numbers))
        if edge_round in self._cut:
            return rest_s * needs[edge_round] / sum(needs[number] for number in cut)
        return max(share_s, (left_s - rest_s) * longest[edge_round] / others_s)

    def _needs_s(self, edge_round: int) -> float:
        """What an edge round takes, or at least takes where it was cut short."""
        taken = self._taken[edge_round]
        return max(median(taken) if taken else 0.0, self._cut.get(edge_round, 0.0), LEAST_S)
