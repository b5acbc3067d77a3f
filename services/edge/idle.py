"""Ends streams whose client neither sends nor reads, so that none holds a thread of the server for ever."""

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
        self._sending: dict[object, tuple[float, Callable[[], object]]] = {}

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

    def sending(self, responses: Iterable[Message], cancel: Callable[[], object]) -> Iterator[Message]:
        """`responses`, whose stream `cancel` ends if one of them is not taken in time."""
        key = object()
        for response in responses:
            with self._lock:
                self._sending[key] = (self._clock(), cancel)
            try:
                yield response
            finally:
                with self._lock:
                    del self._sending[key]

    def end_idle(self) -> None:
        """End the streams that have waited too long."""
        with self._lock:
            waits = [*self._waiting.values(), *self._sending.values()]
        before_s = self._clock() - self._timeout_s
        self._end(cancel for since_s, cancel in waits if since_s < before_s)

    def end_all(self) -> None:
        """End every stream that waits for its client's next message."""
        with self._lock:
            waits = list(self._waiting.values())
        self._end(cancel for _, cancel in waits)

    def _end(self, idle: Iterable[Callable[[], object]]) -> None:
        for cancel in idle:
            cancel()
