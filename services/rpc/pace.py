"""A device that computes slower than the machine that it runs on: for experiments with unequal devices.

What is computed is the same; after each piece of computing a role sleeps as long as makes it so many times slower,
and counts that sleep as computing, so that whoever measures it, or waits for it, meets a slower device. What is
multiplied is the processor time of the thread that computes: while it had to leave its core to another process of
this machine, the device that it stands for would have computed. Memory and the network are as they are
(`max_memory_mib`, `services.testbed.link`), and so is all that is not timed: reading data, serialising, loading
weights. A role that is not paced (factor 1) never sleeps.
"""

import math
import reprlib
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from elsa.errors import SpecError
from elsa.train.phases import Stopwatch

FORM = "give how many times slower, as 2, and later factors by version of the adapter, as 1,3:4 (4 from version 3 on)"


@dataclass(frozen=True)
class Pace:
    """How many times slower, by version of the global adapter: pairs (first version, factor), the first from 0 on.

    Raises:
        SpecError: unless the versions begin at 0 and rise, and each factor is finite and at least 1.
    """

    steps: tuple[tuple[int, float], ...] = ((0, 1.0),)

    def __post_init__(self) -> None:
        versions = [version for version, _ in self.steps]
        if versions[:1] != [0] or any(one >= other for one, other in pairwise(versions)):
            raise SpecError(f"pace {reprlib.repr(str(self))}: versions must rise from 1 on; {FORM}")
        if not all(1 <= factor < math.inf for _, factor in self.steps):
            raise SpecError(f"pace {reprlib.repr(str(self))}: a factor must be at least 1 and finite; {FORM}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pace that a text such as `2` or `1,3:4` names. Raises SpecError, one line that says the form."""
        first, *later = text.split(",")
        try:
            pairs = [each.split(":", 1) for each in later]
            steps = ((0, float(first)), *((int(version), float(factor)) for version, factor in pairs))
        except ValueError as error:
            raise SpecError(f"pace {reprlib.repr(text)}: cannot be read; {FORM}") from error
        return cls(steps)

    def at(self, version: int) -> float:
        """The factor while training from version `version` of the global adapter, which is 0 before any round."""
        return self.steps[max(bisect_right(self.steps, version, key=lambda step: step[0]) - 1, 0)][1]

    def __str__(self) -> str:
        """What `parse` reads."""
        return ",".join(f"{version}:{factor!r}" if version else f"{factor!r}" for version, factor in self.steps)


class PacedWatch(Stopwatch):
    """A stopwatch whose phases take `factor` times as long as what is computed within them.

    A sleep takes a little longer than it was asked to; what it took too long is taken off the next, so that the sum
    of many short phases is right too. An error within a phase is raised at once.

    Args:
        factor: at least 1 and finite; `Pace.at` gives it.
        computed: seconds that the calling thread has had a core.
    """

    def __init__(
        self,
        factor: float,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
        computed: Callable[[], float] = time.thread_time,
    ) -> None:
        super().__init__(clock)
        self._computed = computed
        self._factor = factor
        self._sleep = sleep
        self._owed_s = 0.0

    @contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Count the time spent within it, and the sleep that follows, as `phase`."""
        with super().timing(phase):
            begin = self._computed()
            yield
            self._slow_down(self._computed() - begin)

    def _slow_down(self, took_s: float) -> None:
        self._owed_s += (self._factor - 1) * took_s
        if self._owed_s <= 0:
            return
        begin = self._clock()
        self._sleep(self._owed_s)
        self._owed_s -= self._clock() - begin
