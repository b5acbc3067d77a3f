"""Answers those who show no certificate whether a role lives and is ready: container engines and kubelets.

A plain gRPC listener beside the role's own. It serves `Health.Check` and nothing else, in threads of its own, and
says nothing that is worth a certificate. Nobody is known there, so each address has its share.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health_pb2 as pb

from elsa.errors import CapacityError
from services.rpc.health_servicer import HEALTH
from services.rpc.rates import Rates
from services.rpc.server import GUARDED, MOST_STREAMS, bind

log = logging.getLogger(__name__)

LIVE = "live"
STUCK_S = 300.0
"""Without a turn of its event loop a role is stuck: no call of ours blocks one for so long."""
THREADS, OF_ONE_ADDRESS = 16, 4
"""Threads in all, started as they are needed, and how many callers from one address may hold."""
REQUEST_S = 1.0
"""For the request of a call to come."""
MAX_PROBE_BYTES = 4096


class Readiness:
    """Whether a role can be sent work: not before `begin`, and never again after `end`. For any thread.

    Attributes:
        turned_s: when the role's loop last turned, by `clock`; None for a role that does not tell.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._ended = False
        self.ready = False
        self.turned_s: float | None = None

    def turned(self) -> None:
        """The role's loop has turned; who says it once has to go on saying it."""
        self.turned_s = self._clock()

    @property
    def lives(self) -> bool:
        """False once a loop that is told of has not turned for `STUCK_S`."""
        return self.turned_s is None or self._clock() - self.turned_s <= STUCK_S

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

    The name '' stands for `readiness`; the name `live` for a process that answers and, of the
    cloud, whose event loop turns; threads that are stuck beside it are not noticed.
    """

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self._readiness = readiness
        self._shares = Rates()
        self._shares.hold_threads_to(OF_ONE_ADDRESS)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="probes")
        options = (*GUARDED, ("grpc.max_receive_message_length", MAX_PROBE_BYTES))
        self._server = grpc.server(self._pool, options=options, maximum_concurrent_rpcs=MOST_STREAMS)
        self.address = bind(self._server, host, port, flag="--probe-port")
        # As if it took many requests: else gRPC itself waits for the one, as long as the caller likes.
        check = grpc.stream_unary_rpc_method_handler(
            self._check, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(HEALTH, {"Check": check})])
        self._server.start()
        log.info("probes are answered at %s", self.address)

    def close(self) -> None:
        """Answer no more."""
        self._server.stop(0).wait()
        self._pool.shutdown(wait=False)

    def _check(
        self, requests: Iterator[pb.HealthCheckRequest], context: grpc.ServicerContext
    ) -> pb.HealthCheckResponse:
        with self._share(context), _ended_after(REQUEST_S, context):
            request = next(requests, None)
        if request is None or request.service not in ("", LIVE):
            context.abort(grpc.StatusCode.NOT_FOUND, f"ask for '' (ready) or '{LIVE}'")
        serving = self._readiness.lives if request.service == LIVE else self._readiness.ready
        return pb.HealthCheckResponse(
            status=pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING
        )

    @contextmanager
    def _share(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Within it, the caller's address has one thread more."""
        address = context.peer().rpartition(":")[0]
        try:
            self._shares.hold_thread(address)
        except CapacityError as error:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        try:
            yield
        finally:
            self._shares.free_thread(address)


@contextmanager
def _ended_after(seconds: float, context: grpc.ServicerContext) -> Iterator[None]:
    """Within it, a call may last some seconds, and is cancelled then."""
    timer = threading.Timer(seconds, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
