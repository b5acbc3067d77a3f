"""The runs that a node works on, as its link to the cloud tells them: one driver each, from assignment to end."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from elsa.v1 import fleet_pb2 as pb

log = logging.getLogger(__name__)


class RunDriver(Protocol):
    """Takes one run through its life at a node, on threads of its own."""

    def start(self) -> None:
        """Begin."""

    def update(self, assignment: pb.Assignment) -> None:
        """The cloud's newest word on the run."""

    def stop(self) -> None:
        """The run has ended, or the node is to stop."""

    def join(self, timeout_s: float) -> None:
        """Wait for the end after `stop`, unless called from the driver's own thread."""


class RunDrivers:
    """The runs that a node works on: begun when they are first assigned, stopped when they are no more."""

    def __init__(self, make: Callable[[pb.Assignment], RunDriver]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._drivers: dict[str, RunDriver] = {}
        self._stopped: list[RunDriver] = []
        self._begins = True
        self._closed = False

    @property
    def count(self) -> int:
        """Runs that are worked on."""
        return len(self._drivers)

    def begin_no_more(self) -> None:
        """Take no run up any more; those that are worked on go on."""
        with self._lock:
            self._begins = False

    def follow(self, changes: Iterable[Sequence[pb.Assignment]]) -> None:
        """Do as the cloud says, change after change."""
        for assignments in changes:
            with self._lock:
                self._apply({assignment.run_id: assignment for assignment in assignments})

    def close(self) -> None:
        """Stop all, and begin none any more."""
        with self._lock:
            self._stopped += self._drivers.values()
            for run_id, driver in self._drivers.items():
                log.info("run %s: stops here; it has not ended", run_id)
                driver.stop()
            self._drivers.clear()
            self._closed = True

    def join(self, timeout_s: float) -> None:
        """After `close`, wait for the drivers' ends, for each at most `timeout_s` seconds."""
        for driver in self._stopped:
            driver.join(timeout_s)

    def _apply(self, assignments: Mapping[str, pb.Assignment]) -> None:
        if not self._closed:
            for run_id in self._drivers.keys() - assignments.keys():
                log.info("run %s has ended", run_id)
                self._drivers.pop(run_id).stop()
            for run_id, assignment in assignments.items():
                if run_id not in self._drivers:
                    if not self._begins:
                        continue
                    self._drivers[run_id] = self._make(assignment)
                    self._drivers[run_id].start()
                self._drivers[run_id].update(assignment)
