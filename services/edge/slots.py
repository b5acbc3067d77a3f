"""The adapters of a trunk that sessions borrow, so that a session costs no new modules while others come and go.

Used on the compute thread alone.
"""

import time
from collections.abc import Callable

from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.segment import Segment


class Slots:
    """Adapters on `segment`, made when all that there are have been taken, and kept for the next."""

    def __init__(self, segment: Segment, config: AdapterConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._segment = segment
        self._config = config
        self._clock = clock
        self._made = 0
        self._free: list[str] = []
        self._taken: set[str] = set()
        self._used_s = clock()

    @property
    def there(self) -> int:
        """Slots on the segment, taken or free."""
        return len(self._free) + len(self._taken)

    def take(self) -> str:
        """A slot that nobody has; its values are left over from whoever had it."""
        if not self._free:
            self._made += 1
            made = f"slot{self._made}"
            adapters.attach(self._segment, self._config, made)
            self._free.append(made)
        slot = self._free.pop()
        self._taken.add(slot)
        return slot

    def give(self, slot: str) -> None:
        """Take a slot back."""
        self._taken.discard(slot)
        self._free.append(slot)
        self.touch()

    def touch(self) -> None:
        """The run is at work."""
        self._used_s = self._clock()

    def drop_idle(self, idle_s: float) -> bool:
        """Remove all slots if none is taken and nothing was at work for so many seconds; whether that is so.

        Later ones are made anew.
        """
        if self._taken or self._clock() - self._used_s < idle_s:
            return False
        while self._free:
            adapters.remove(self._segment, self._free.pop())
        return True
