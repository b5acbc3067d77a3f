"""Wakes those who wait for something to change, so that nothing polls. For one event loop."""

import asyncio
from weakref import WeakValueDictionary

from elsa.errors import DrainingError

Key = tuple[str, str]


class Changes:
    """Waiters by key, such as ("run", run id).

    To miss nothing, take `next` first, then look, then wait for what `next` gave.
    """

    def __init__(self) -> None:
        self._events: WeakValueDictionary[Key, asyncio.Event] = WeakValueDictionary()  # gone when nobody waits
        self._closed = False

    def next(self, key: Key) -> asyncio.Event:
        """What the next change of `key` sets. Raises DrainingError once closed."""
        if self._closed:
            raise DrainingError("the cloud is going down; try again in a moment")
        return self._events.setdefault(key, asyncio.Event())

    def __len__(self) -> int:
        """Keys that someone waits for."""
        return len(self._events)

    def notify(self, *keys: Key) -> None:
        """Wake those who wait for one of `keys`."""
        for key in keys:
            if event := self._events.pop(key, None):
                event.set()

    def close(self) -> None:
        """Wake all; whoever looks again gets a DrainingError."""
        self._closed = True
        self.notify(*list(self._events))
