"""The guard of a synchronous server, around every handler and within what translates errors.

A silent stream of a caller whose certificate is good no more is cancelled: there is no other way to end a call whose
thread waits. The caller learns why when it calls again.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from elsa.errors import ElsaError
from services.rpc.guard import Call, Guard, is_stream, is_untranslated, sized
from services.rpc.handlers import Behavior, Handler, behavior_of, with_behavior
from services.rpc.open_streams import OpenStreams, on_a_thread
from services.rpc.status import code_of, name_of


class GuardInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Guards a synchronous server."""

    def __init__(self, guard: Guard, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._guard = guard
        self._sleep = sleep
        self._streams = OpenStreams(guard.is_over, on_a_thread, guard.looked_through_s)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, guarded."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        guarded = self._guarded(handler, method)
        return with_behavior(
            handler, _aborting(guarded) if is_untranslated(handler, method) else guarded, sized(handler)
        )

    def _guarded(self, handler: Handler, method: str) -> Behavior:
        function = behavior_of(handler)

        @functools.wraps(function)  # with its marks: health's watch holds no thread
        def guarded(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
            call = Call(self._guard, method, context)
            if is_stream(handler):
                self._open(call, context, not getattr(function, "experimental_non_blocking", False))
            checked = self._checked(request, call) if handler.request_streaming else call.request(*request)
            answer = function(checked, context, *more)
            return _while_good(answer, call) if handler.response_streaming and answer is not None else answer

        return guarded

    def _open(self, call: Call, context: grpc.ServicerContext, holds_thread: bool) -> None:
        call.open_stream(holds_thread=holds_thread)
        self._streams.add(call, call.caller, context.cancel)

        def close() -> None:
            self._streams.remove(call)
            call.close_stream(holds_thread=holds_thread)

        if not context.add_callback(close):  # the caller has left already
            close()

    def _checked(self, messages: Iterator[tuple[Any, int]], call: Call) -> Iterator[Any]:
        for message, size_bytes in messages:
            while pause_s := call.pause_s(size_bytes):
                self._sleep(pause_s)
            yield call.passed(message)


def _while_good(answers: Iterable[Any], call: Call) -> Iterator[Any]:
    for answer in answers:
        call.recheck()
        yield answer


def _aborting(guarded: Behavior) -> Behavior:
    @functools.wraps(guarded)
    def aborting(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
        try:
            return guarded(request, context, *more)
        except ElsaError as error:
            context.set_trailing_metadata(name_of(error))
            context.abort(code_of(error), str(error))

    return aborting
