"""The one compute thread of an edge: tensor work of all sessions, one piece after another, in order of arrival."""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from elsa.errors import DrainingError

Result = TypeVar("Result")
STOPPED = "this edge is stopping; try again when it is back"


@dataclass(frozen=True, kw_only=True)
class Timed(Generic[Result]):
    """A result, the seconds that it waited for the thread, and the seconds that it took."""

    value: Result
    wait_s: float
    compute_s: float


class Worker:
    """Runs functions on a thread of its own."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")

    def submit(self, work: Callable[[], Result]) -> "Future[Timed[Result]]":
        """Queue `work`; its errors are raised by the future. Raises DrainingError once stopped."""
        queued = self._clock()

        def run() -> Timed[Result]:
            begin = self._clock()
            value = work()
            return Timed(value=value, wait_s=begin - queued, compute_s=self._clock() - begin)

        try:
            return self._pool.submit(run)
        except RuntimeError as error:
            raise DrainingError(STOPPED) from error

    def post(self, work: Callable[[], object]) -> None:
        """Queue `work`, of which nobody waits for the end; nothing once stopped."""
        with suppress(DrainingError):
            self.submit(work)

    def run(self, work: Callable[[], Result]) -> Timed[Result]:
        """`submit` and wait. Raises what `work` raises, DrainingError once stopped."""
        try:
            return self.submit(work).result()
        except CancelledError as error:
            raise DrainingError(STOPPED) from error

    def stop(self) -> None:
        """Drop what is queued and wait for what runs."""
        self._pool.shutdown(cancel_futures=True)
