"""What an edge has done for training sessions since it started, of all runs together."""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from elsa.train.phases import ByteCount

How = Literal["committed", "dropped", "failed"]
"""How a session ended."""
HOWS: tuple[How, ...] = ("committed", "dropped", "failed")


class Tally:
    """Counts. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps = 0
        self._wait_s = 0.0
        self._trunk_s = 0.0
        self._bytes = ByteCount()
        self._ended: Counter[str] = Counter()

    def stepped(self) -> None:
        """A session's optimizer took a step."""
        with self._lock:
            self._steps += 1

    def computed(self, wait_s: float, trunk_s: float) -> None:
        """A message waited for the compute thread and was computed."""
        with self._lock:
            self._wait_s += wait_s
            self._trunk_s += trunk_s

    def moved(self, count: ByteCount) -> None:
        """A session's messages came or went."""
        with self._lock:
            self._bytes += count

    def ended(self, how: How) -> None:
        """A session ended."""
        with self._lock:
            self._ended[how] += 1

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self._steps

    @property
    def seconds(self) -> Mapping[str, float]:
        """By phase."""
        with self._lock:
            return {"wait": self._wait_s, "trunk": self._trunk_s}

    @property
    def bytes(self) -> ByteCount:
        """Of sessions' messages."""
        return self._bytes

    @property
    def sessions(self) -> Mapping[str, int]:
        """That ended, by how."""
        with self._lock:
            return {how: self._ended[how] for how in HOWS}
