"""The devices of a demo's clients, where they are unlike: how fast, with how much memory, behind which link."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.testbed.cgroup import Limits

Figure = TypeVar("Figure", int, float)


@dataclass(frozen=True, kw_only=True)
class Device:
    """One client's device; what is None is as this machine has it."""

    slower: float = 1.0
    """How many times slower than this machine it computes."""
    memory_mib: int | None = None
    """For the client's part of the model and for training it."""
    latency_ms: float | None = None
    """Of a round trip to each edge, on top of what this machine takes."""
    mbit: float | None = None
    """Mbit/s to each edge, each way."""

    @property
    def has_link(self) -> bool:
        """Whether its way to the edges is not this machine's own."""
        return self.latency_ms is not None or self.mbit is not None

    @property
    def bytes_per_s(self) -> float:
        """Of its link, each way; infinite for this machine's own."""
        return math.inf if self.mbit is None else self.mbit * 1e6 / 8

    def flags(self, *, paced: bool) -> list[str]:
        """What `elsa client` is told: its memory, and its pace unless something else slows it."""
        pace = ["--pace", f"{self.slower!r}"] if paced and self.slower > 1 else []
        return pace + ([] if self.memory_mib is None else ["--max-memory-mib", str(self.memory_mib)])

    def limits(self, threads: int) -> Limits:
        """The same for the kernel, where the fastest device has `threads` cores."""
        return Limits(
            cpus=threads / self.slower, memory_bytes=None if self.memory_mib is None else self.memory_mib << 20
        )

    def __str__(self) -> str:
        """The device on one line."""
        parts = [
            "computes as fast as this machine" if self.slower == 1 else f"computes {self.slower:g} times slower",
            "memory as there is" if self.memory_mib is None else f"{self.memory_mib} MiB for its part of the model",
        ]
        if self.has_link:
            latency = "" if self.latency_ms is None else f"{self.latency_ms:g} ms"
            rate = "" if self.mbit is None else f"{self.mbit:g} Mbit/s"
            parts.append(f"{' and '.join(filter(None, (latency, rate)))} to each edge")
        return ", ".join(parts)


def devices(
    clients: int,
    *,
    speeds: Sequence[float] = (),
    memory_mib: Sequence[int] = (),
    latency_ms: Sequence[float] = (),
    mbit: Sequence[float] = (),
) -> list[Device]:
    """The devices of so many clients, in order; figures that are fewer are repeated in turn.

    Args:
        speeds: relative to each other; the fastest computes as fast as this machine.
    """
    relative = _in_turn(speeds, clients)
    fastest = max((speed for speed in relative if speed), default=1.0)
    rows = zip(relative, *(_in_turn(each, clients) for each in (memory_mib, latency_ms, mbit)), strict=True)
    return [
        Device(slower=fastest / (speed or fastest), memory_mib=memory, latency_ms=latency, mbit=rate)
        for speed, memory, latency, rate in rows
    ]


def _in_turn(figures: Sequence[Figure], clients: int) -> list[Figure | None]:
    return [figures[number % len(figures)] if figures else None for number in range(clients)]
