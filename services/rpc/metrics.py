"""Tells a monitor the figures of a role, as docs/metrics.md lists them: Prometheus' text over plain HTTP.

Collectors read the role's own objects when they are asked; nothing is kept for them but counts.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from cryptography import x509
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from elsa.errors import AddressError
from services.rpc.guard import REASONS, Guard
from services.rpc.introduction import own_version
from services.rpc.ledger import Ledger
from services.rpc.node import CloudLink
from services.rpc.probes import Readiness
from services.rpc.server import busy, is_loopback
from services.rpc.tls import Own

log = logging.getLogger(__name__)

MOST_OPEN, OF_ONE_ADDRESS = 16, 4
"""Connections at once, each of which has a thread: in all, and from one address. More are closed."""
REQUEST_S = 10.0
"""For a connection from its beginning to its end, however it drips."""
LOOK_S = 0.1
"""Between two looks at connections that last too long, and whether the listener is to close."""
PAUSE, LONGEST_PAUSE_S = 19, 1.0
"""After figures were read, none are for so many times as long as that took, and this at the most."""


class Collector(Protocol):
    """Gives figures when asked."""

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""


def registry_of(
    role: str, readiness: Readiness, own: Own | None, collectors: Iterable[Collector]
) -> CollectorRegistry:
    """All figures of one role: those that every role has, and those of its own `collectors`."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    for collector in (_Common(role, readiness, own), *collectors):
        registry.register(collector)
    return registry


def gauge(name: str, text: str, value: float) -> Metric:
    """A figure without labels."""
    return GaugeMetricFamily(name, text, value=value)


def count(name: str, text: str, value: float) -> Metric:
    """A count without labels."""
    return CounterMetricFamily(name, text, value=value)


def counter(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """A count for each value of one label."""
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in values:
        family.add_metric((value,), count)
    return family


def gauges(name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """A figure for each of some labels' values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for named, value in values:
        family.add_metric(named, value)
    return family


class _Common:
    """What every role tells."""

    def __init__(self, role: str, readiness: Readiness, own: Own | None) -> None:
        self._role = role
        self._version = own_version()
        self._readiness = readiness
        self._own = own

    def collect(self) -> Iterator[Metric]:
        told = ((self._version, self._role), 1.0)
        yield gauges("elsa_build_info", "Version and role", ("version", "role"), [told])
        yield gauge(
            "elsa_ready", "Registered since its start, or serving, and not draining", float(self._readiness.ready)
        )
        if self._own is not None:
            certificate = x509.load_pem_x509_certificate(self._own.now().certificate)
            ends = certificate.not_valid_after_utc.timestamp()
            yield gauge("elsa_certificate_not_after_seconds", "When the own certificate ends, unix seconds", ends)


class RefusalMetrics:
    """What a server's guard refused."""

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard

    def collect(self) -> Iterator[Metric]:
        """See docs/metrics.md."""
        refused = self._guard.refused if self._guard else dict.fromkeys(REASONS.values(), 0)
        yield counter("elsa_refused", "Calls and messages that the guard refused", "reason", refused.items())


class NodeMetrics:
    """What edges and clients have in common."""

    def __init__(self, link: CloudLink, ledger: Ledger, usable_bytes: Callable[[], int]) -> None:
        self._link = link
        self._ledger = ledger
        self._usable_bytes = usable_bytes

    def collect(self) -> Iterator[Metric]:
        """See docs/metrics.md."""
        if self._link.answered_unix_s is not None:
            at = self._link.answered_unix_s
            yield gauge("elsa_heartbeat_seconds", "When the cloud last answered this node, unix seconds", at)
        yield gauge("elsa_memory_reserved_bytes", "Memory that runs have reserved", self._ledger.reserved_bytes)
        yield gauge("elsa_memory_usable_bytes", "Memory that this process may still take", self._usable_bytes())


class Text:
    """All figures as Prometheus' text, always read after they were asked for. For any thread.

    One reading runs at a time, those who wait for one share it, and each is followed by a pause, so that whoever asks
    all the time takes a small part of the role's.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._registry, self._clock, self._sleep = registry, clock, sleep
        self._lock = threading.Lock()
        self._began_s = self._next_s = -math.inf
        self._text = b""

    def __call__(self) -> bytes:
        """The text; empty for those who shared a reading that failed, which whoever began it raises."""
        asked_s = self._clock()
        with self._lock:
            if self._began_s <= asked_s:
                self._read()
            return self._text

    def _read(self) -> None:
        self._sleep(max(self._next_s - self._clock(), 0))
        self._began_s, self._text = self._clock(), b""
        try:
            self._text = generate_latest(self._registry)
        finally:
            now_s = self._clock()
            self._next_s = now_s + min(PAUSE * (now_s - self._began_s), LONGEST_PAUSE_S)


class MetricsListener:
    """Serves from its making to `close`. Raises AddressError if the port is taken."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        host = host.strip("[]")
        try:
            self._server = _Server(host, port, registry)
        except OSError as error:
            raise AddressError(busy(host, port, "--metrics-port")) from error
        self.address = f"{f'[{host}]' if ':' in host else host}:{self._server.server_address[1]}"
        to_all = "" if is_loopback(host) else ", for everyone who reaches that port: keep it within your own network"
        log.info("metrics are at http://%s/metrics%s", self.address, to_all)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    block_on_close = False  # who is silent is not waited for

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.text = Text(registry)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, tuple[str, float]] = {}
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without the look at DNS for a name that nobody needs."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for a connection, in all and of its address."""
        address = client_address[0]
        with self._lock:
            same = sum(address == other for other, _ in self._open.values())
            if len(self._open) >= MOST_OPEN or same >= OF_ONE_ADDRESS:
                return False
            self._open[request] = (address, time.monotonic())
        return True

    def service_actions(self) -> None:
        """Every `LOOK_S` seconds: end the connections that last too long, whatever they do."""
        late_s = time.monotonic() - REQUEST_S
        with self._lock:
            for request, (_, began_s) in self._open.items():
                if began_s < late_s:
                    with suppress(OSError):  # gone already
                        request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """It is over."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One who left in the middle, or figures that could not be had."""
        log.warning("metrics could not be told", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, explain="the figures are at /metrics")
            return
        try:
            body = self.server.text()
        except TimeoutError:  # which http.server would take for a silence of the caller
            log.warning("metrics could not be told", exc_info=True)
            body = b""
        if not body:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain="the figures cannot be had; see the log")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape is no event."""
