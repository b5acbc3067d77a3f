"""How long a client tries again what its edge or cloud refuses for a while: in its warm-up and in its rounds."""

import logging
import threading
from collections.abc import Callable

from elsa.errors import (
    CapacityError,
    ChecksumError,
    DrainingError,
    ElsaError,
    NotFoundError,
    PermissionDeniedError,
    StaleRoundError,
    UnreachableError,
)

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
PASSING = (
    UnreachableError,
    DrainingError,
    NotFoundError,
    StaleRoundError,
    CapacityError,
    PermissionDeniedError,
    ChecksumError,
)
"""What an edge that restarts, that does not know of us yet, that has no room for us yet, or that is past our round
may answer for a while."""


class Patience:
    """Tries again after what passes, with growing pauses.

    Args:
        limit_s: for how long, in seconds of pauses since the last success.
        stop: ends it, and every pause.
    """

    def __init__(self, run_id: str, limit_s: float, stop: threading.Event) -> None:
        self._run_id = run_id
        self._limit_s = limit_s
        self._stop = stop

    def until(self, done: Callable[[], bool]) -> bool:
        """Call `done` until it says that all is done; False if stopped before that.

        Raises what it raises if that does not pass, or once the pauses add up to the limit.
        """
        pause_s, paused_s = FIRST_PAUSE_S, 0.0
        said = ""
        while not self._stop.is_set():
            try:
                if done():
                    return True
                pause_s, paused_s, said = FIRST_PAUSE_S, 0.0, ""
            except PASSING as error:
                if paused_s > self._limit_s:
                    raise
                if str(error) != said and not self._stop.is_set():
                    self._tell(error)
                    said = str(error)
                self._stop.wait(pause_s)
                pause_s, paused_s = min(2 * pause_s, LONGEST_PAUSE_S), paused_s + pause_s
        return False

    def _tell(self, error: ElsaError) -> None:
        """Say once what is waited for: an edge that has not heard yet is no fault, one that is away may be."""
        level = logging.WARNING if isinstance(error, (UnreachableError, ChecksumError)) else logging.INFO
        log.log(level, "run %s: not yet: %s; asks again for up to %.0f s", self._run_id, error, self._limit_s)
