"""Ends streams whose client has gone quiet, so that none holds a thread of the server for ever."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Message = TypeVar("Message")


class IdleStreams:
    """The streams of an edge that wait for their client. All methods may be called from any thread."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[object, tuple[float, Callable[[], object]]] = {}

    def watched(self, requests: Iterable[Message], cancel: Callable[[], object]) -> Iterator[Message]:
        """`requests`, whose stream `cancel` ends if the next one does not come in time."""
        source, key = iter(requests), object()
        while True:
            with self._lock:
                self._waiting[key] = (self._clock(), cancel)
            try:
                message = next(source, None)
            finally:
                with self._lock:
                    del self._waiting[key]
            if message is None:
                return
            yield message

    def end_idle(self) -> None:
        """End the streams that have waited too long."""
        self._end(self._clock() - self._timeout_s)

    def end_all(self) -> None:
        """End every stream that waits."""
        self._end(float("inf"))

    def _end(self, before_s: float) -> None:
        with self._lock:
            idle = [cancel for since_s, cancel in self._waiting.values() if since_s < before_s]
        for cancel in idle:
            cancel()
