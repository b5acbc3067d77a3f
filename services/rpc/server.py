"""gRPC servers as all of ours are: bounded messages, keepalive, health, reflection, errors translated.

Edges use the synchronous kind, which moves large messages faster; the cloud the asynchronous one, which holds many
quiet streams. Both refuse a port that is taken, and an address off loopback unless they speak TLS or that was spelled
out.
"""

import ipaddress
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from elsa.errors import AddressError
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.rpc.calls import Calls
from services.rpc.counting import AioCountingInterceptor, CountingInterceptor
from services.rpc.guard import Guard
from services.rpc.guarding import EarlyInterceptor, GuardInterceptor
from services.rpc.guarding_aio import AioGuardInterceptor
from services.rpc.health_servicer import HEALTH, AioChecks, Checks
from services.rpc.introduction import Introduction
from services.rpc.translating import AioTranslator, Translator

KEEPALIVE_MS = 20_000
HANDSHAKE_MS = 20_000
"""For TLS and the first words of HTTP/2: who says nothing is not kept; gRPC itself waits two minutes."""
MOST_STREAMS = 256
"""Calls of one connection at once; more wait at the caller, or it refuses them. An identity may have half as many
streams open."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
)

KEPT_THREADS = 4
"""Of a synchronous server, at most a fourth: no identity may hold all, whatever it calls, sends or leaves unsaid."""
GUARDED: tuple[tuple[str, int], ...] = (*OPTIONS, ("grpc.max_concurrent_streams", MOST_STREAMS))
"""Of a server whose callers are others: what they may have open is bounded before the guard sees it."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A servicer, how it is added to a server, and its descriptor for health and reflection."""

    servicer: Any
    add: Callable[[Any, Any], None]
    descriptor: ServiceDescriptor


@dataclass(frozen=True, kw_only=True)
class BoundServer:
    """A started synchronous server and where it listens."""

    server: grpc.Server
    address: str
    health: Checks
    pool: ThreadPoolExecutor

    def stop(self, grace_s: float) -> None:
        """Turn NOT_SERVING, let calls in flight finish for at most `grace_s` seconds, then end them."""
        self.health.drain()
        self.server.stop(grace_s).wait()
        self.pool.shutdown(wait=False)


@dataclass(frozen=True, kw_only=True)
class BoundAioServer:
    """A started asynchronous server and where it listens."""

    server: grpc.aio.Server
    address: str
    health: AioChecks

    async def stop(self, grace_s: float) -> None:
        """Turn NOT_SERVING, let calls in flight finish for at most `grace_s` seconds, then end them."""
        self.health.drain()
        await self.server.stop(grace_s)


def start(
    services: Sequence[Service],
    *,
    host: str,
    port: int,
    threads: int,
    insecure: bool,
    credentials: grpc.ServerCredentials | None = None,
    guard: Guard | None = None,
    introduction: Introduction | None = None,
    calls: Calls | None = None,
) -> BoundServer:
    """Start a synchronous server; every call holds one of its `threads`, and no identity may hold all.

    Args:
        credentials: for TLS; None for none.
        guard: lets callers in by their certificates; with TLS alone.
        introduction: what is said with every call; None: this version, and the time.
        calls: counts the calls.

    Raises AddressError if the port is taken, or if `host` is not loopback and there is neither TLS nor `insecure`.
    """
    check_host(host, insecure or credentials is not None)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rpc")
    if guard is not None:
        guard.rates.hold_threads_to(threads - min(KEPT_THREADS, threads // 4))
    server = grpc.server(
        pool,
        interceptors=[
            *([EarlyInterceptor()] if guard else []),
            *([CountingInterceptor(calls)] if calls else []),
            Translator(introduction or Introduction()),
            *([GuardInterceptor(guard)] if guard else []),
        ],
        options=GUARDED if guard else OPTIONS,
    )
    checks = Checks(_names(services))
    address = bind(server, host, port, credentials)
    _add_all(server, services)
    checks.add_to(server)
    server.start()
    return BoundServer(server=server, address=address, health=checks, pool=pool)


async def start_aio(
    services: Sequence[Service],
    *,
    host: str,
    port: int,
    insecure: bool,
    credentials: grpc.ServerCredentials | None = None,
    guard: Guard | None = None,
    introduction: Introduction | None = None,
    calls: Calls | None = None,
) -> BoundAioServer:
    """Start an asynchronous server on the running loop. Takes and raises as `start`."""
    check_host(host, insecure or credentials is not None)
    server = grpc.aio.server(
        interceptors=[
            *([AioCountingInterceptor(calls)] if calls else []),
            AioTranslator(introduction or Introduction()),
            *([AioGuardInterceptor(guard)] if guard else []),
        ],
        options=GUARDED if guard else OPTIONS,
    )
    checks = AioChecks(_names(services))
    address = bind(server, host, port, credentials)
    _add_all(server, services)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await server.start()
    return BoundAioServer(server=server, address=address, health=checks)


def check_host(host: str, insecure: bool) -> None:
    """Raise AddressError if `host` is not loopback and `insecure` is False."""
    if not insecure and not is_loopback(host):
        raise AddressError(
            f"refusing to listen on {host} without TLS: give --tls-ca, --tls-cert and --tls-key (elsa pki makes "
            "them), use 127.0.0.1, or add --insecure if everyone who can reach this address may read and change what "
            "is sent"
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is 'localhost' or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bind(
    server: Any, host: str, port: int, credentials: grpc.ServerCredentials | None = None, *, flag: str = "--port"
) -> str:
    """The address at which `server` will listen. Raises AddressError, which names the `flag`, if it cannot be had."""
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host  # IPv6
    try:
        if credentials is None:
            bound = server.add_insecure_port(f"{host}:{port}")
        else:
            bound = server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError as error:
        raise AddressError(busy(host, port, flag)) from error
    if bound == 0:
        raise AddressError(busy(host, port, flag))
    return f"{host}:{bound}"


def busy(host: str, port: int, flag: str) -> str:
    """What to say of an address that cannot be had."""
    return f"cannot listen on {host}:{port}: taken, or not an address of this machine; choose another {flag}"


def _add_all(server: Any, services: Sequence[Service]) -> None:
    for service in services:
        service.add(service.servicer, server)
    names = [*_names(services), HEALTH, reflection.SERVICE_NAME]
    reflection.enable_server_reflection([name for name in names if name], server)


def _names(services: Sequence[Service]) -> list[str]:
    return ["", *(service.descriptor.full_name for service in services)]
