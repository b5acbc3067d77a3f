"""Which run may open how many of an edge's sessions, so that runs that train at once do not take each other's room.

A run that enrolls is promised all that is free, since nobody knows yet which clients it will bring; once it trains,
only what they need. Clients that come later, from an edge that is gone, claim what is free then and what other runs
give back. Where that is not enough nobody is turned away here: a client that opens a session while all are taken is
refused with CapacityError (RESOURCE_EXHAUSTED), tries again, and leaves its run once its patience is spent. All
methods may be called from any thread.
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
        self._clients: dict[str, int] = {}
        self._most: dict[str, int] = {}

    def promise(self, run_id: str, stop: threading.Event, most: int) -> int:
        """All that is free, at least 1; waits while another run that enrolls has it.

        Args:
            most: for how many of the run's sessions there is memory, at least 1.

        Raises CapacityError if runs that train have it, DrainingError if `stop` is set before a `release`.
        """
        with self._changed:
            self._changed.wait_for(lambda: stop.is_set() or self._free() > 0 or not self._enrolling)
            if stop.is_set():
                raise DrainingError(f"run {run_id} has ended at this edge")
            room = min(self._free(), most)
            if room < 1:
                runs = ", ".join(sorted(self._promised))
                raise CapacityError(
                    f"all {self._capacity} sessions of this edge are promised to {runs}; wait, or raise its capacity"
                )
            self._promised[run_id] = room
            self._most[run_id] = most
            self._enrolling.add(run_id)
            return room

    def settle(self, run_id: str, clients: int) -> None:
        """The run trains with so many clients now; it is promised room for them as far as there is any."""
        with self._changed:
            self._clients[run_id] = min(clients, self._most.get(run_id, clients))
            self._promised[run_id] = min(self._promised.get(run_id, 0), clients)
            self._enrolling.discard(run_id)
            self._share_out()

    def release(self, run_id: str) -> None:
        """The run has ended here, or waits to be told so."""
        with self._changed:
            for promises in (self._clients, self._promised, self._most):
                promises.pop(run_id, None)
            self._enrolling.discard(run_id)
            self._share_out()

    def _share_out(self) -> None:
        """Give what is free to the runs that have more clients than room, then let those that enroll look."""
        for run_id, clients in self._clients.items():
            self._promised[run_id] += min(clients - self._promised[run_id], self._free())
        self._changed.notify_all()

    def _free(self) -> int:
        return self._capacity - sum(self._promised.values())
