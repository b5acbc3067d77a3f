"""Drives every run from what the database holds, so that a cloud that was killed goes on where it was.

`advance` takes the steps of `steps.py` that are due for one run. It may be called at any time and any number of
times: after each fact that comes in, and by a timer for what time alone brings.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from weakref import WeakValueDictionary

from sqlalchemy.exc import SQLAlchemyError

from elsa.errors import ElsaError, FullDiskError, RoundGivenUpError, UnreachableError, first_line
from services.cloud.changes import Changes
from services.cloud.lifecycle import RunState
from services.cloud.steps import Steps
from services.cloud.store import Store

log = logging.getLogger(__name__)
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_MOST_FAULTS = 3
"""Times in a row that a run is tried again after one and the same fault of the program."""
_PASSING = (OSError, SQLAlchemyError, UnreachableError, FullDiskError)
"""A full disk, a database that is away: no fault of a run."""

Fault = tuple[type[Exception], str, int | None]


class Engine:
    """Advances runs, each by one task at a time. Lives on one event loop.

    Attributes:
        ticked_unix_s: when `tick` last looked at all runs; None before it has.
    """

    def __init__(
        self,
        store: Store,
        steps: Steps,
        changes: Changes,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store, self._steps, self._changes = store, steps, changes
        self._clock, self._sleep = clock, sleep
        self.ticked_unix_s: float | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._faults: dict[str, tuple[Fault, int]] = {}

    def kick(self, *run_ids: str) -> None:
        """Have runs advanced in the background; without names, all that have not ended."""
        if not run_ids:
            with self._store.transaction() as transaction:
                run_ids = tuple(run.run_id for run in transaction.open_runs())
        for run_id in run_ids:
            self._again.add(run_id)
            if run_id not in self._tasks:
                self._tasks[run_id] = asyncio.create_task(self._drive(run_id))

    def arrived(self, node_id: str) -> None:
        """Draw the consequences of a node that registered or came back: runs may begin, its address may be new."""
        with self._store.transaction() as transaction:
            runs = [run.run_id for run, _ in transaction.memberships(node_id)]
        for run_id in runs:
            self.announce(run_id)
        self.kick()

    async def tick(self, every_s: float) -> None:
        """Kick all runs every so many seconds, for deadlines; runs until cancelled."""
        while True:
            try:
                self.kick()
                self.ticked_unix_s = self._clock()
            except _PASSING as error:
                log.warning("the database did not answer (%s); trying again", first_line(error))
            except Exception:  # the outermost loop of all runs
                log.exception("the runs could not be looked at; trying again")
            await asyncio.sleep(every_s)

    async def close(self) -> None:
        """Stop what runs in the background; the database holds all that is needed to go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def advance(self, run_id: str, now: float) -> None:
        """Do all that is due for a run at `now`, unix seconds. A fault of the run's own fails it."""
        async with self._locks.setdefault(run_id, asyncio.Lock()):
            try:
                while await self._steps.take(run_id, now):
                    self.announce(run_id)
            except (UnreachableError, FullDiskError):  # the database: it comes back
                raise
            except ElsaError as error:
                log.warning("run %s failed: %s", run_id, error)
                with suppress(RoundGivenUpError):  # cancelled meanwhile
                    self.end(run_id, RunState.FAILED, now, str(error))

    def end(self, run_id: str, state: RunState, now: float, reason: str) -> None:
        """Fail or cancel a run. Raises NotFoundError, and RoundGivenUpError if it has ended already."""
        with self._store.transaction() as transaction:
            transaction.move(transaction.run(run_id), state, now, reason)
        self._faults.pop(run_id, None)
        self.announce(run_id)

    def announce(self, run_id: str) -> None:
        """Wake all who wait for something of a run."""
        with self._store.transaction() as transaction:
            members = transaction.member_ids(run_id)
        self._changes.notify(("run", run_id), ("events", run_id), *(("node", node_id) for node_id in members))

    async def _drive(self, run_id: str) -> None:
        pause_s = _PAUSE_S
        try:
            while run_id in self._again:
                self._again.discard(run_id)
                begin = time.monotonic()
                try:
                    await self.advance(run_id, self._clock())
                except _PASSING as error:
                    log.warning("run %s waits: %s; trying again in %g s", run_id, first_line(error), pause_s)
                    await self._sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    self._again.add(run_id)
                    continue
                self._faults.pop(run_id, None)
                if run_id in self._again:  # many facts at once: at most half of the time goes to one run
                    await asyncio.sleep(min(time.monotonic() - begin, 1.0))
        except Exception as error:  # the outermost loop of a run: the next tick tries again
            log.exception("run %s could not advance; trying again", run_id)
            self._count(run_id, error)
        finally:
            del self._tasks[run_id]

    def _count(self, run_id: str, error: Exception) -> None:
        """Fail a run that is stopped by the same fault of the program again and again."""
        fault = _fault(error)
        before, times = self._faults.get(run_id, (fault, 0))
        times = times + 1 if before == fault else 1
        self._faults[run_id] = fault, times
        if times < _MOST_FAULTS:
            return
        try:
            self.end(run_id, RunState.FAILED, self._clock(), "internal fault; see the cloud's log")
        except (ElsaError, OSError, SQLAlchemyError) as unable:  # cancelled meanwhile, or no database: the next tick
            log.warning("run %s could not be failed: %s", run_id, first_line(unable))


def _fault(error: Exception) -> Fault:
    """What was raised and where; texts may differ from time to time."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), place.filename, place.lineno
