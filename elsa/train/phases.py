"""Where a session's time and bytes go, counted on both sides and joined when it finishes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class PhaseSeconds:
    """Seconds by phase; see `PhaseSeconds` of `split.proto` for what each holds."""

    bottom: float = 0.0
    network: float = 0.0
    wait: float = 0.0
    trunk: float = 0.0
    top: float = 0.0

    def __add__(self, other: "PhaseSeconds") -> "PhaseSeconds":
        return PhaseSeconds(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ByteCount:
    """Bytes of serialized messages: `up` from client to edge, `down` back."""

    up: int = 0
    down: int = 0

    def __add__(self, other: "ByteCount") -> "ByteCount":
        return ByteCount(up=self.up + other.up, down=self.down + other.down)


class Stopwatch:
    """Adds up seconds by phase."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds = PhaseSeconds()

    @contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Count the time spent within it as `phase`."""
        begin = self._clock()
        try:
            yield
        finally:
            self.add(phase, self._clock() - begin)

    def add(self, phase: str, seconds: float) -> None:
        """Count `seconds` as `phase`."""
        self.seconds = replace(self.seconds, **{phase: getattr(self.seconds, phase) + seconds})
