"""Counts the calls of both kinds of server, around everything else that is done with them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from services.rpc.calls import Calls, Outcome
from services.rpc.guard import is_stream
from services.rpc.handlers import Behavior, Handler, behavior_of, with_behavior

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
OK, CANCELLED, UNKNOWN = (
    code.name for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
)


class CountingInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Counts the calls of a synchronous server."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, counted."""
        handler, method = continuation(handler_call_details), handler_call_details.method
        if not is_counted(handler, method):
            return handler
        return _with_sizes(handler, self._counted(handler, short(method)), self._calls, short(method))

    def _counted(self, handler: Handler, method: str) -> Behavior:
        function, timed = behavior_of(handler), not is_stream(handler)

        def single(request: Any, context: grpc.ServicerContext) -> Any:
            with self._calls.one(method, timed=timed) as outcome, _ending(outcome, context, context.is_active):
                return function(request, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._calls.one(method, timed=timed) as outcome, _ending(outcome, context, context.is_active):
                yield from function(request, context)

        return stream if handler.response_streaming else single


class AioCountingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Counts the calls of an asynchronous server."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, counted."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if not is_counted(handler, method):
            return handler
        return _with_sizes(handler, self._counted(handler, short(method)), self._calls, short(method))

    def _counted(self, handler: Handler, method: str) -> Behavior:
        function, timed = behavior_of(handler), not is_stream(handler)

        async def single(request: Any, context: Any) -> Any:
            with self._calls.one(method, timed=timed) as outcome, _ending(outcome, context):
                return await function(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._calls.one(method, timed=timed) as outcome, _ending(outcome, context):
                async for answer in function(request, context):
                    yield answer

        return stream if handler.response_streaming else single


def is_counted(handler: Handler, method: str) -> bool:
    """Whether a call is of a service of ours, and offered."""
    return handler is not None and not method.startswith("/grpc.")


def short(method: str) -> str:
    """`FleetService.Heartbeat` of `/elsa.v1.FleetService/Heartbeat`."""
    service, _, name = method.lstrip("/").rpartition("/")
    return f"{service.rpartition('.')[2]}.{name}"


def _with_sizes(handler: Handler, behavior: Behavior, calls: Calls, method: str) -> Handler:
    read, write = handler.request_deserializer or bytes, handler.response_serializer or bytes

    def reading(data: bytes) -> Any:
        calls.message(method, "in", len(data))
        return read(data)

    def writing(message: Any) -> bytes:
        data: bytes = write(message)
        calls.message(method, "out", len(data))
        return data

    return with_behavior(handler, behavior, reading, writing)


@contextmanager
def _ending(outcome: Outcome, context: Any, is_there: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within it a call is served; notes with which code it ends.

    Args:
        is_there: whether its caller still is; a call whose caller has left may end as if nothing were wrong.
    """
    try:
        yield
    except (GeneratorExit, asyncio.CancelledError):
        outcome.code = CANCELLED
        raise
    except BaseException:
        outcome.code = _said(context) or UNKNOWN
        raise
    outcome.code = _said(context) or (OK if is_there() else CANCELLED)


def _said(context: Any) -> str:
    """The code that was set for a call, in the one kind of server a member of StatusCode, in the other its number."""
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return CODES[number] if number else ""
