"""The standard health service of both kinds of server: serving from the start, and not any more once it drains.

gRPC's own for synchronous servers sends to those who watch while it holds the lock that it takes when one of them
leaves: if that happens at once, the server never ends. And of neither kind does it end the watches when it drains, so
that whoever watches makes a stop take all of its grace.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc


class Names:
    """What is asked about by name; the server itself is called ''. For any thread."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self.serving = True

    def check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:
        """The answer to `Check`; NOT_FOUND for a name that is not known."""
        if request.service not in self._names:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            return pb.HealthCheckResponse()
        return self.now(request)

    def now(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """How a name stands."""
        return pb.HealthCheckResponse(status=self._of(request.service))

    def list(self) -> pb.HealthListResponse:
        """How all stand."""
        every = {name: pb.HealthCheckResponse(status=self._of(name)) for name in self._names}
        return pb.HealthListResponse(statuses=every)

    def _of(self, name: str) -> Any:
        if name not in self._names:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if self.serving else pb.HealthCheckResponse.NOT_SERVING


class Checks(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Of a synchronous server. Those who watch hold none of its threads."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = Names(names)
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        """How a name stands now."""
        return self._names.check(request, context)

    def List(self, request: pb.HealthListRequest, context: grpc.ServicerContext) -> pb.HealthListResponse:
        """How all names stand now."""
        return self._names.list()

    def Watch(
        self,
        request: pb.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[pb.HealthCheckResponse | None], None],
    ) -> None:
        """How a name stands, and once more when the server drains, which ends the watch."""
        watch = _Watch(request, send_response_callback)
        with self._lock:
            serving = self._names.serving
            if serving:
                self._watches.add(watch)
        if not context.add_callback(lambda: self._left(watch)):  # gone already
            self._left(watch)
        watch.tell(self._names.now(request), last=not serving)

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # asks gRPC for the callback

    def drain(self) -> None:
        """Say NOT_SERVING from now on, and end the watches."""
        with self._lock:
            self._names.serving = False
            watches, self._watches = self._watches, set()
        for watch in watches:  # without the lock: who leaves meanwhile needs it, and gRPC waits for that here
            watch.tell(self._names.now(watch.request), last=True)

    def _left(self, watch: "_Watch") -> None:
        with self._lock:
            self._watches.discard(watch)


class _Watch:
    """One who watches; gRPC takes one message at a time."""

    def __init__(self, request: pb.HealthCheckRequest, send: Callable[[pb.HealthCheckResponse | None], None]) -> None:
        self.request = request
        self._send = send
        self._lock = threading.Lock()
        self._over = False

    def tell(self, answer: pb.HealthCheckResponse, *, last: bool) -> None:
        """Send `answer`, unless the last was sent."""
        with self._lock:
            if self._over:
                return
            self._over = last
            self._send(answer)
            if last:
                self._send(None)


class AioChecks(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Of an asynchronous server, on its loop."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = Names(names)
        self._drained = asyncio.Event()

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:
        """How a name stands now."""
        return self._names.check(request, context)

    async def List(self, request: pb.HealthListRequest, context: Any) -> pb.HealthListResponse:
        """How all names stand now."""
        return self._names.list()

    async def Watch(self, request: pb.HealthCheckRequest, context: Any) -> AsyncIterator[pb.HealthCheckResponse]:
        """How a name stands, and once more when the server drains, which ends the watch."""
        serving = self._names.serving
        yield self._names.now(request)
        if serving:
            await self._drained.wait()
            yield self._names.now(request)

    def drain(self) -> None:
        """Say NOT_SERVING from now on, and end the watches."""
        self._names.serving = False
        self._drained.set()
