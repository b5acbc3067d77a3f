"""Clients that wait at an edge for a round: each in one call, its newest."""

import threading
from collections.abc import Callable


class Waits:
    """The clients that wait in one run.

    Args:
        changed: the run's lock, held by whoever calls; notified when anything has changed.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self.clients: dict[str, object] = {}
        """Those who wait, each with its newest call."""

    def until(self, client: str, has_answer: Callable[[], bool], wait_s: float) -> bool:
        """Wait until there is an answer for a client, it asks again, or `wait_s` seconds are over.

        Returns whether this is its newest call.
        """
        call = object()
        self.clients[client] = call
        self._changed.notify_all()
        try:
            self._changed.wait_for(lambda: self.clients.get(client) is not call or has_answer(), timeout=wait_s)
            return self.clients.get(client) is call
        finally:
            if self.clients.get(client) is call:
                del self.clients[client]
