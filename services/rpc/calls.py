"""Counts a server's calls for its metrics: how many of each method ended how, how long they took, and their bytes."""

import bisect
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

CALL_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Bounds between which calls' seconds are told apart."""


class Histogram:
    """How many values lay at or below each of `bounds`. For one thread at a time."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and count of all values up to it, as Prometheus has them."""
        names, total = [*map(str, self._bounds), "+Inf"], 0
        found: list[tuple[str, float]] = []
        for name, count in zip(names, self._counts, strict=True):
            total += count
            found.append((name, total))
        return found


@dataclass
class Outcome:
    """How a call ends; whoever serves it says so."""

    code: str = "OK"


class Calls:
    """The calls of one server. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._open: Counter[str] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CALL_S))

    @contextmanager
    def one(self, method: str, *, timed: bool) -> Iterator[Outcome]:
        """A call of `method` within the context; its seconds count if it is `timed`."""
        outcome, begin = Outcome(), self._clock()
        with self._lock:
            self._open[method] += 1
        try:
            yield outcome
        finally:
            with self._lock:
                self._open[method] -= 1
                self._ended[method, outcome.code] += 1
                if timed:
                    self._seconds[method].observe(self._clock() - begin)

    def message(self, method: str, direction: str, size_bytes: int) -> None:
        """A message of `method` came `in` or goes `out`."""
        with self._lock:
            self._bytes[method, direction] += size_bytes

    def collect(self) -> Iterator[Metric]:
        """See docs/metrics.md."""
        ended = CounterMetricFamily("elsa_rpc_calls", "Calls that have ended", labels=("method", "code"))
        seconds = HistogramMetricFamily(
            "elsa_rpc_seconds", "Seconds of calls that are no streams", labels=("method",)
        )
        running = GaugeMetricFamily("elsa_rpc_open", "Calls in progress", labels=("method",))
        size = CounterMetricFamily("elsa_rpc_bytes", "Serialized messages", labels=("method", "direction"))
        with self._lock:
            for (method, code), count in self._ended.items():
                ended.add_metric((method, code), count)
            for method, histogram in self._seconds.items():
                seconds.add_metric((method,), histogram.buckets(), histogram.sum)
            for method, count in self._open.items():
                running.add_metric((method,), count)
            for (method, direction), count in self._bytes.items():
                size.add_metric((method, direction), count)
        yield from (ended, seconds, running, size)
