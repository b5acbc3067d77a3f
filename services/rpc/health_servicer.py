"""The standard health service of both kinds of server: serving from the start, and not any more once it drains.

gRPC's own does not end its watches when it drains, so that whoever watches makes a stop take all of its grace.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

HEALTH = pb.DESCRIPTOR.services_by_name["Health"].full_name


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


class Checks:
    """Of a synchronous server, which offers no `Watch`: each would hold a thread for as long as its caller likes.

    gRPC's callers that look at health themselves take such a server for healthy, as gRPC's health checking protocol
    has it of UNIMPLEMENTED.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = Names(names)

    def add_to(self, server: grpc.Server) -> None:
        """Answer there, before it starts."""
        check = grpc.unary_unary_rpc_method_handler(
            self._names.check, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
        )
        every = grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._names.list(),
            pb.HealthListRequest.FromString,
            pb.HealthListResponse.SerializeToString,
        )
        handlers = {"Check": check, "List": every}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(HEALTH, handlers)])

    def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        self._names.serving = False


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
