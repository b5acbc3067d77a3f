"""When files that may be renewed are read again: at once when they change, and in vain not for long.

What makes a file usable need not show in its stamp: a folder's rights, another file's, or the time at which a
certificate begins to hold. So a reading that failed is made again all the same.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.rpc.waiting import Telling

RETRY_S = 10.0
"""After which files that could not be used are read again, whether they seem to have changed or not."""
REMIND_S = 3600.0
Stamp = tuple[int, ...] | None


class Rereading:
    """The times at which the files `paths` are read; the first time is after this is made, and must succeed.

    Not for several threads at once. A `clock` that is set back, or forward, delays nothing.
    """

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.time) -> None:
        self._paths, self._clock = paths, clock
        self._stamps = self._stamps_now()
        self._succeeded, self._tried_at = True, 0.0
        self._telling = _hourly()

    def is_due(self) -> bool:
        """Whether to read them now: they have changed, or the last reading, begun RETRY_S ago, has not succeeded."""
        now, stamps = self._clock(), self._stamps_now()
        if stamps != self._stamps:
            self._stamps, self._telling = stamps, _hourly()
        elif self._succeeded or 0 <= now - self._tried_at < RETRY_S:
            return False
        self._succeeded, self._tried_at = False, now
        return True

    def succeed(self) -> None:
        """What was read last can be used."""
        self._succeeded = True

    def is_to_be_told(self, fault: str) -> bool:
        """Whether to log a fault, empty for none: at once, once more when the files have changed, and every hour."""
        return self._telling.is_due(fault, self._clock()) and fault != ""

    def _stamps_now(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(path) for path in self._paths)


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is written or replaced, or its rights are; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode


def _hourly() -> Telling:
    return Telling(growth=1.0, first_s=REMIND_S)
