"""The guard of a synchronous server, around every handler and within what translates errors.

A call holds a thread from its beginning to its end, so it is let in before its first message is waited for. One that
is silent is cancelled where its caller's certificate is good no more or its only request does not come: there is no
other way to end a call whose thread waits. The caller learns why when it calls again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from elsa.errors import MalformedError
from services.rpc.guard import Call, Guard, is_stream, sized
from services.rpc.handlers import Behavior, Handler, begun_before_requests, behavior_of, with_behavior
from services.rpc.open_streams import OpenStreams, on_a_thread


class EarlyInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Begins calls before their request is there; stands around all others, and needs the guard within.

    gRPC's own way with calls of one request is to wait for it in a thread before anything of ours is asked.
    """

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, which is given all requests as a stream."""
        handler = continuation(handler_call_details)
        return handler and begun_before_requests(handler)


class GuardInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Guards a synchronous server, within `EarlyInterceptor`."""

    def __init__(self, guard: Guard, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._guard = guard
        self._sleep = sleep
        self._calls = OpenStreams(on_a_thread, guard.looked_through_s)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, guarded."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return with_behavior(handler, self._guarded(handler, handler_call_details.method), sized(handler))

    def _guarded(self, handler: Handler, method: str) -> Behavior:
        function, read = behavior_of(handler), self._all if handler.request_streaming else _only

        def single(messages: Any, context: grpc.ServicerContext) -> Any:
            with self._open(handler, method, context) as call:
                return function(read(messages, call), context)

        def stream(messages: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._open(handler, method, context) as call:
                for answer in function(read(messages, call), context):
                    call.recheck()
                    yield answer

        return stream if handler.response_streaming else single

    @contextmanager
    def _open(self, handler: Handler, method: str, context: grpc.ServicerContext) -> Iterator[Call]:
        call = Call(self._guard, method, context)
        with call.holding(stream=is_stream(handler), thread=True):
            self._calls.add(call, call.why_over, context.cancel)
            try:
                yield call
            finally:
                self._calls.remove(call)

    def _all(self, messages: Iterator[tuple[Any, int]], call: Call) -> Iterator[Any]:
        for message, size_bytes in messages:
            while pause_s := call.pause_s(size_bytes):
                self._sleep(pause_s)
            yield call.passed(message)


def _only(messages: Iterator[tuple[Any, int]], call: Call) -> Any:
    with call.awaiting_request():
        first = next(messages, None)
    if first is None:
        raise MalformedError("the call ended without its request; send one message")
    return call.request(*first)
