"""The one compute thread of an edge: tensor work of all sessions, one piece after another, in order of arrival."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


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
        """Queue `work`; its errors are raised by the future."""
        queued = self._clock()

        def run() -> Timed[Result]:
            begin = self._clock()
            value = work()
            return Timed(value=value, wait_s=begin - queued, compute_s=self._clock() - begin)

        return self._pool.submit(run)

    def run(self, work: Callable[[], Result]) -> Timed[Result]:
        """`submit` and wait."""
        return self.submit(work).result()

    def stop(self) -> None:
        """Drop what is queued and wait for what runs."""
        self._pool.shutdown(cancel_futures=True)
