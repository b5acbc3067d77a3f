"""The one compute thread of an edge: tensor work of all sessions, one piece after another, in order of arrival."""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from elsa.errors import DrainingError
from services.rpc.pace import Pace, PacedWatch

Result = TypeVar("Result")
STOPPED = "this edge is stopping; try again when it is back"


@dataclass(frozen=True, kw_only=True)
class Timed(Generic[Result]):
    """A result, the seconds that it waited for the thread, and the seconds that it took."""

    value: Result
    wait_s: float
    compute_s: float


class Worker:
    """Runs functions on a thread of its own.

    Args:
        pace: by how much what is done for a version of the adapter is slowed.
    """

    def __init__(
        self,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
        computed: Callable[[], float] = time.thread_time,
    ) -> None:
        self._pace = pace or Pace()
        self._computed = computed
        self._clock = clock
        self._sleep = sleep
        self._watches: dict[float, PacedWatch] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")

    def submit(self, work: Callable[[], Result], version: int | None = None) -> "Future[Timed[Result]]":
        """Queue `work`; its errors are raised by the future. Raises DrainingError once stopped.

        Args:
            version: of the global adapter that it is done for; None for what is never slowed.
        """
        queued = self._clock()

        def run() -> Timed[Result]:
            begin = self._clock()
            with self._paced(version):
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

    def run(self, work: Callable[[], Result], version: int | None = None) -> Timed[Result]:
        """`submit` and wait. Raises what `work` raises, DrainingError once stopped."""
        try:
            return self.submit(work, version).result()
        except CancelledError as error:
            raise DrainingError(STOPPED) from error

    def stop(self) -> None:
        """Drop what is queued and wait for what runs."""
        self._pool.shutdown(cancel_futures=True)

    def _paced(self, version: int | None) -> AbstractContextManager[None]:
        """Within it, computing takes as long as on the device that this one stands for."""
        factor = 1.0 if version is None else self._pace.at(version)
        if factor not in self._watches:
            self._watches[factor] = PacedWatch(factor, self._clock, self._sleep, self._computed)
        return self._watches[factor].timing("trunk")
