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
    PeerError,
    PermissionDeniedError,
    StaleRoundError,
    UnreachableError,
)
from services.rpc.waiting import Telling

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
    PeerError,
)
"""What an edge that restarts, that does not know of us yet, that has no room for us yet, or that is past our round
may answer for a while, and so may an edge or a cloud with a fault of its own: a disk or a bucket that fails once."""
FAULTS = (UnreachableError, ChecksumError, PeerError)
"""Those of them that somebody may have to look at; an edge that has not heard of us yet is none."""


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

        Raises what it raises if that does not pass; once the pauses add up to the limit the same, and says so.
        """
        pause_s, paused_s, telling = FIRST_PAUSE_S, 0.0, Telling()
        while not self._stop.is_set():
            try:
                if done():
                    return True
                pause_s, paused_s, telling = FIRST_PAUSE_S, 0.0, Telling()
            except PASSING as error:
                if paused_s > self._limit_s:
                    raise type(error)(f"{error}; gave up after {self._limit_s:g} s") from error
                if not self._stop.is_set() and telling.is_due(str(error), paused_s):
                    self._tell(error, self._limit_s - paused_s)
                self._stop.wait(pause_s)
                pause_s, paused_s = min(2 * pause_s, LONGEST_PAUSE_S), paused_s + pause_s
        return False

    def _tell(self, error: ElsaError, left_s: float) -> None:
        """Say what is waited for."""
        level = logging.WARNING if isinstance(error, FAULTS) else logging.INFO
        log.log(level, "run %s: not yet: %s; asks again for up to %.0f s", self._run_id, error, left_s)
