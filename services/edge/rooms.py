"""Which run may open how many of an edge's sessions, so that runs that train at once do not take each other's room.

A run that enrolls is promised all that is free, since nobody knows yet which clients it will bring; once it trains,
only what they need. All methods may be called from any thread.
"""

import threading

from elsa.errors import CapacityError, DrainingError


class Rooms:
    """The sessions of an edge, promised to its runs."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._promised: dict[str, int] = {}
        self._enrolling: set[str] = set()

    def promise(self, run_id: str, stop: threading.Event) -> int:
        """All that is free, at least 1; waits while another run that enrolls has it.

        Raises CapacityError if runs that train have it, DrainingError if `stop` is set before a `release`.
        """
        with self._changed:
            self._changed.wait_for(lambda: stop.is_set() or self._free() > 0 or not self._enrolling)
            if stop.is_set():
                raise DrainingError(f"run {run_id} has ended at this edge")
            room = self._free()
            if room < 1:
                runs = ", ".join(sorted(self._promised))
                raise CapacityError(
                    f"all {self._capacity} sessions of this edge are promised to {runs}; wait, or raise its capacity"
                )
            self._promised[run_id] = room
            self._enrolling.add(run_id)
            return room

    def settle(self, run_id: str, clients: int) -> None:
        """The run trains with so many clients."""
        with self._changed:
            self._promised[run_id] = clients
            self._enrolling.discard(run_id)
            self._changed.notify_all()

    def release(self, run_id: str) -> None:
        """The run has ended here, or waits to be told so."""
        with self._changed:
            self._promised.pop(run_id, None)
            self._enrolling.discard(run_id)
            self._changed.notify_all()

    def _free(self) -> int:
        return self._capacity - sum(self._promised.values())
