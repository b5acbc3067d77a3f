"""Answers those who show no certificate whether a role lives and is ready: container engines and kubelets.

A plain gRPC listener beside the role's own. It serves `Health.Check` and nothing else, in threads of its own, and
says nothing that is worth a certificate.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb

from services.rpc.server import HEALTH, OPTIONS, bind

log = logging.getLogger(__name__)

LIVE = "live"
THREADS = 2
MAX_PROBE_BYTES = 4096


class Readiness:
    """Whether a role can be sent work: not before `begin`, and never again after `end`. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self.ready = False

    def begin(self) -> None:
        """The role can work."""
        with self._lock:
            self.ready = not self._ended

    def end(self) -> None:
        """The role drains."""
        with self._lock:
            self._ended, self.ready = True, False


class Probes:
    """The listener; it serves from its making to `close`. Raises AddressError if the port is taken.

    The name '' stands for `readiness`; the name `live` for a process that answers.
    """

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self._readiness = readiness
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="probes")
        options = (*OPTIONS, ("grpc.max_receive_message_length", MAX_PROBE_BYTES))
        self._server = grpc.server(self._pool, options=options)
        self.address = bind(self._server, host, port, flag="--probe-port")
        check = grpc.unary_unary_rpc_method_handler(
            self._check, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(HEALTH, {"Check": check})])
        self._server.start()
        log.info("probes are answered at %s", self.address)

    def close(self) -> None:
        """Answer no more."""
        self._server.stop(0).wait()
        self._pool.shutdown(wait=False)

    def _check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:
        if request.service not in ("", LIVE):
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"ask for '' (ready) or '{LIVE}'")
            return pb.HealthCheckResponse()
        serving = request.service == LIVE or self._readiness.ready
        return pb.HealthCheckResponse(
            status=pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING
        )
