"""The calls that a server holds open, and an end to those that are not to go on.

A stream whose messages come is checked with each. What is silent is found here: while any call is open, all are
looked through every few seconds by one timer, so that none takes a thread or a task of its own.
"""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

LOOKED_THROUGH_S = 10.0
Later = Callable[[float, Callable[[], object]], object]
"""Does something once some seconds are over: `loop.call_later`, or `on_a_thread`."""


def on_a_thread(delay_s: float, work: Callable[[], object]) -> None:
    """Do `work` after `delay_s` seconds, on a thread that does not keep the process alive."""
    timer = threading.Timer(delay_s, work)
    timer.daemon = True
    timer.start()


class OpenStreams:
    """Open calls by a key for each. For any thread.

    Args:
        later: see `Later`.
        every_s: between two looks, seconds.
    """

    def __init__(self, later: Later, every_s: float = LOOKED_THROUGH_S) -> None:
        self._later = later
        self._every_s = every_s
        self._lock = threading.Lock()
        self._open: dict[object, tuple[Callable[[], str], Callable[[], object]]] = {}
        self._timed = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, key: object, why_over: Callable[[], str], end: Callable[[], object]) -> None:
        """A call has begun, which `end` ends once `why_over` says why it is not to go on; '' while it may."""
        with self._lock:
            self._open[key] = (why_over, end)
            timed, self._timed = self._timed, True
        if not timed:
            self._later(self._every_s, self._look)

    def remove(self, key: object) -> None:
        """The call has ended."""
        with self._lock:
            self._open.pop(key, None)

    def _look(self) -> None:
        with self._lock:
            self._timed = bool(self._open)
            calls = list(self._open.values())
        if calls:
            self._later(self._every_s, self._look)
        for why_over, end in calls:
            if why := why_over():
                log.warning("ended a call: %s", why)
                end()
