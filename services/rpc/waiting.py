"""When a wait is worth a line of a log: at once, when its reason changes, and else at intervals that grow."""

FIRST_S, LONGEST_S = 10.0, 600.0


class Telling:
    """One wait's lines.

    Args:
        growth: of the interval from one line of the same reason to the next, which begins with `first_s` seconds and
            ends with 10 minutes, or stays if it is longer; 1 for somebody who looks on.
    """

    def __init__(self, growth: float = 2.0, first_s: float = FIRST_S) -> None:
        self._growth, self._first_s = growth, first_s
        self._reason: str | None = None
        self._next, self._interval = 0.0, first_s

    def is_due(self, reason: str, now: float) -> bool:
        """Whether to say this reason at `now`, seconds of any clock; it counts as said then."""
        if reason != self._reason:
            self._reason, self._interval = reason, self._first_s
        elif now < self._next:
            return False
        else:
            self._interval = min(self._interval * self._growth, max(LONGEST_S, self._first_s))
        self._next = now + self._interval
        return True
