"""Channels to our servers: bounded messages, keepalive, retries of idempotent calls, and patient waiting.

gRPC itself retries what the service config names: calls that change nothing when they are made twice, and only on
UNAVAILABLE. `patiently` is for the longer wait of a role whose peer is not there yet or is being restarted.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from elsa.errors import DrainingError, ElsaError, HandshakeError, UnreachableError
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.rpc.server import KEEPALIVE_MS, is_loopback
from services.rpc.status import translated
from services.rpc.waiting import Telling

log = logging.getLogger(__name__)
Result = TypeVar("Result")

IDEMPOTENT = {
    "elsa.v1.SplitService": ["Ping"],
    "elsa.v1.FleetService": ["RegisterEdge", "RegisterClient", "Heartbeat", "JoinRun", "ListEdges"],
    "elsa.v1.RunService": ["GetRun", "ListRuns", "ReportEvaluation"],
}
"""Unary calls that may be made twice."""

SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in IDEMPOTENT.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.service_config", SERVICE_CONFIG),
)

STRAIGHT = (("grpc.enable_http_proxy", 0),)


def connect(address: str, credentials: grpc.ChannelCredentials | None = None, host: str = "") -> grpc.Channel:
    """A channel to `address`, host:port. Nothing is sent yet; roles call it by way of `services.rpc.dial`.

    gRPC goes by a proxy of the environment; to loopback none leads.

    Args:
        credentials: for TLS; None for none.
        host: with TLS, the name that the peer's certificate must carry.
    """
    options = (*OPTIONS, *(STRAIGHT if is_loopback(address.rpartition(":")[0]) else ()))
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=(*options, ("grpc.ssl_target_name_override", host)))


def patiently(
    call: Callable[[], Result],
    peer: str,
    *,
    limit_s: float,
    handshake_s: float = math.inf,
    growth: float = 2.0,
    first_s: float = 0.25,
    longest_s: float = 5.0,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    passing: tuple[type[ElsaError], ...] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Result:
    """`call()`, made again with growing pauses while `peer` is unreachable or draining, for `limit_s` seconds.

    `call` must be idempotent. The log says what is waited for, the same again as `Telling` says.

    Args:
        handshake_s: how long to go on, without a word, where both sides do not come to terms.
        growth: of the intervals in the log.

    Raises UnreachableError when the time is used up, and not a word once `stopped()`; HandshakeError when
    `handshake_s` are; other errors at once, but for those that are `passing`: they are tried again too.
    """
    begin, pause, telling = clock(), first_s, Telling(growth)
    again: tuple[type[ElsaError], ...] = (UnreachableError, DrainingError, *passing)
    while True:
        try:
            with translated(peer):
                return call()
        except again as error:
            waited = (now := clock()) - begin
            if isinstance(error, HandshakeError) and waited >= handshake_s:
                raise
            if (left := limit_s - waited) <= 0:
                raise UnreachableError(f"{peer} did not answer for {limit_s:g} s; gave up: {error}") from error
            if stopped():
                raise UnreachableError(f"{peer}: stopped while waiting for it") from error
            borne = isinstance(error, HandshakeError) and handshake_s < math.inf
            if not borne and telling.is_due(str(error), now):
                log.warning("%s; waited %.0f s, trying again for %.0f s more", error, waited, left)
            sleep(min(pause, left))
            pause = min(pause * 2, longest_s)
