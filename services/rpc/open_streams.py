"""The streams that a server holds open, and an end to those whose caller is not good any more.

A stream whose messages come is checked with each. One that is silent is found here: while any is open, all are looked
through every few seconds by one timer, so that no stream takes a thread or a task of its own.
"""

import logging
import threading
from collections.abc import Callable

from services.rpc.caller import Caller

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
    """Open streams by a key for each. For any thread.

    Args:
        is_over: whether a caller's certificate is good no more.
        later: see `Later`.
        every_s: between two looks, seconds.
    """

    def __init__(self, is_over: Callable[[Caller], bool], later: Later, every_s: float = LOOKED_THROUGH_S) -> None:
        self._is_over = is_over
        self._later = later
        self._every_s = every_s
        self._lock = threading.Lock()
        self._open: dict[object, tuple[Caller, Callable[[], object]]] = {}
        self._timed = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, key: object, caller: Caller, end: Callable[[], object]) -> None:
        """`caller` has opened a stream, which `end` ends."""
        with self._lock:
            self._open[key] = (caller, end)
            timed, self._timed = self._timed, True
        if not timed:
            self._later(self._every_s, self._look)

    def remove(self, key: object) -> None:
        """The stream has ended."""
        with self._lock:
            self._open.pop(key, None)

    def _look(self) -> None:
        with self._lock:
            self._timed = bool(self._open)
            streams = list(self._open.values())
        if streams:
            self._later(self._every_s, self._look)
        for caller, end in streams:
            if self._is_over(caller):
                log.warning("ended a stream of %s, whose certificate is good no more", caller)
                end()
