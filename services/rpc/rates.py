"""How much one caller may ask of a server: token buckets by identity, and how many streams it holds open.

A bucket is kept as the time at which it will be full again, and is forgotten once that is over: a caller who is not
there any more costs nothing. This is the generic cell rate algorithm (ITU-T I.371, annex A), as a virtual schedule.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from elsa.errors import CapacityError, SpecError
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.rpc.identity import Identity

ROUNDING_S = 1e-6
"""A wait that is shorter is none: sums of times are rounded, and a full bucket must give its whole burst."""
LEAST_SWEPT = 1024
"""Buckets up to this number are never looked through for full ones."""


@dataclass(frozen=True, kw_only=True)
class RateLimits:
    """What each identity may ask of one server; far above what a run asks.

    Raises SpecError for a limit that lets nothing through.
    """

    calls_per_s: float = 100.0
    calls_burst: int = 1000
    streams_per_s: float = 20.0
    streams_burst: int = 200
    open_streams: int = 128
    request_bytes_per_s: float = 1e9
    """All requests' messages together, as they were sent: without what gRPC and TLS add."""
    request_bytes_burst: int = 1 << 30

    def __post_init__(self) -> None:
        for field, least in (
            ("calls_burst", 1),
            ("streams_burst", 1),
            ("open_streams", 1),
            ("request_bytes_burst", MAX_MESSAGE_BYTES),
        ):
            if getattr(self, field) < least:
                raise SpecError(f"{field}: {getattr(self, field)}; it must be at least {least}")
        for field in ("calls_per_s", "streams_per_s", "request_bytes_per_s"):
            if not 0 < getattr(self, field) < math.inf:
                raise SpecError(f"{field}: {getattr(self, field)}; it must be more than 0")


class Buckets:
    """A bucket for each who asks: `burst` tokens when full, `per_s` more a second. For one thread at a time."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._full_after_s = burst / per_s
        self._full_at: dict[Hashable, float] = {}
        self._sweep_at = LEAST_SWEPT

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, who: Hashable, tokens: float, now_s: float) -> float:
        """Take `tokens` and give 0, or, where there are too few, take none and give the seconds until there are."""
        full_at = max(self._full_at.get(who, now_s), now_s) + tokens / self._per_s
        wait_s = full_at - now_s - self._full_after_s
        if wait_s > ROUNDING_S:
            return wait_s
        self._full_at[who] = full_at
        if len(self._full_at) > self._sweep_at:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now_s}
            self._sweep_at = max(LEAST_SWEPT, 2 * len(self._full_at))
        return 0.0


class Rates:
    """What every identity asks of one server, held against `limits`. For any thread.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, limits: RateLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits = limits or RateLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._calls = Buckets(limits.calls_per_s, limits.calls_burst)
        self._streams = Buckets(limits.streams_per_s, limits.streams_burst)
        self._bytes = Buckets(limits.request_bytes_per_s, limits.request_bytes_burst)
        self._open: dict[Hashable, int] = {}
        self._holding: dict[Hashable, int] = {}
        self._most_holding = limits.open_streams

    def hold_threads_to(self, most: int) -> None:
        """Let no identity hold more than `most` threads of the server, but one at least."""
        self._most_holding = max(most, 1)

    def hold_thread(self, who: Hashable) -> None:
        """Count a call that holds a thread, to which `free_thread` of the same belongs. Raises CapacityError."""
        with self._lock:
            if self._holding.get(who, 0) >= self._most_holding:
                raise CapacityError(
                    f"{who} holds {self._most_holding} threads of this server, as many as it may; end a call and ask "
                    "again"
                )
            self._holding[who] = self._holding.get(who, 0) + 1

    def free_thread(self, who: Hashable) -> None:
        """A call of `hold_thread` has ended."""
        with self._lock:
            _forget_one(who, self._holding)

    def call(self, who: Identity) -> None:
        """Count a call of any kind. Raises CapacityError."""
        with self._lock:
            wait_s = self._calls.take(who, 1, self._clock())
        if wait_s:
            raise CapacityError(
                f"{who} calls more than {self._limits.calls_per_s:g} times a second; {_again(wait_s)}"
            )

    def open_stream(self, who: Identity) -> None:
        """Count a stream, to which `close_stream` of the same belongs. Raises CapacityError."""
        with self._lock:
            if self._open.get(who, 0) >= self._limits.open_streams:
                most = self._limits.open_streams
                raise CapacityError(f"{who} has {most} streams open, as many as it may; end one and ask again")
            wait_s = self._streams.take(who, 1, self._clock())
            if not wait_s:
                self._open[who] = self._open.get(who, 0) + 1
        if wait_s:
            per_s = self._limits.streams_per_s
            raise CapacityError(f"{who} opens more than {per_s:g} streams a second; {_again(wait_s)}")

    def close_stream(self, who: Identity) -> None:
        """A stream of `open_stream` has ended."""
        with self._lock:
            _forget_one(who, self._open)

    def pause_s(self, who: Identity, request_bytes: int) -> float:
        """Count a message and give 0, or, where it comes too early, the seconds until it may be counted."""
        with self._lock:
            return self._bytes.take(who, request_bytes, self._clock())

    def message(self, who: Identity, request_bytes: int) -> None:
        """Count a message. Raises CapacityError where it comes too early."""
        if wait_s := self.pause_s(who, request_bytes):
            per_s = self._limits.request_bytes_per_s
            raise CapacityError(f"{who} sends more than {per_s:g} bytes a second; {_again(wait_s)}")


def _forget_one(who: Hashable, counted: dict[Hashable, int]) -> None:
    if left := counted.pop(who) - 1:
        counted[who] = left


def _again(wait_s: float) -> str:
    return f"ask again in {math.ceil(wait_s * 1000) / 1000:g} s"
