"""The guard of an asynchronous server, around every handler and within what translates errors."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import grpc
import grpc.aio

from elsa.errors import UnauthenticatedError
from services.rpc.guard import Call, Guard, is_stream, sized
from services.rpc.handlers import Behavior, Handler, behavior_of, with_behavior
from services.rpc.open_streams import OpenStreams
from services.rpc.status import code_of, name_of


class AioGuardInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Guards an asynchronous server."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._streams = OpenStreams(_on_this_loop, guard.looked_through_s)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, guarded."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        return with_behavior(handler, self._guarded(handler, method), sized(handler))

    def _guarded(self, handler: Handler, method: str) -> Behavior:
        function = behavior_of(handler)

        async def single(request: Any, context: Any) -> Any:
            with self._open(handler, method, context) as (call, _):
                return await function(_read(handler, request, call), context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._open(handler, method, context) as (call, ending):
                async for answer in function(_read(handler, request, call), context):
                    call.recheck()
                    with ending.away():
                        yield answer

        return stream if handler.response_streaming else single

    @contextmanager
    def _open(self, handler: Handler, method: str, context: Any) -> Iterator[tuple[Call, "_Ending"]]:
        with _Ending(context) as ending:
            call = Call(self._guard, method, context)
            if is_stream(handler):
                self._hold(call, ending)
            yield call, ending

    def _hold(self, call: Call, ending: "_Ending") -> None:
        held = ExitStack()
        held.enter_context(call.holding(stream=True))
        self._streams.add(call, call.why_over, lambda: ending.end(call.over()))
        held.callback(self._streams.remove, call)
        ending.task.add_done_callback(lambda _: held.close())


class _Ending:
    """Within it, a cancellation that `end` brought about is an UnauthenticatedError."""

    def __init__(self, context: Any) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are handled in tasks")
        self.task = task
        self._context = context
        self._error: UnauthenticatedError | None = None
        self._away = False
        self._abort: asyncio.Task[None] | None = None

    def end(self, error: UnauthenticatedError) -> None:
        """End the call with `error`."""
        if self._error is not None:
            return
        self._error = error
        if self._away:  # a cancellation would end the task and tell the caller nothing
            self._abort = asyncio.get_running_loop().create_task(self._tell(error))
            asyncio.get_running_loop().call_soon(self.task.cancel)
        else:
            self.task.cancel()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it, gRPC sends an answer: what happens then does not come back here."""
        self._away = True
        try:
            yield
        finally:
            self._away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if self._error is not None and kind is asyncio.CancelledError:
            self.task.uncancel()
            raise self._error from error

    async def _tell(self, error: UnauthenticatedError) -> None:
        with suppress(grpc.aio.AbortError):
            await self._context.abort(code_of(error), str(error), name_of(error))


def _read(handler: Handler, request: Any, call: Call) -> Any:
    return _checked_aio(request, call) if handler.request_streaming else call.request(*request)


async def _checked_aio(messages: AsyncIterator[tuple[Any, int]], call: Call) -> AsyncIterator[Any]:
    async for message, size_bytes in messages:
        while pause_s := call.pause_s(size_bytes):
            await asyncio.sleep(pause_s)
        yield call.passed(message)


def _on_this_loop(delay_s: float, work: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(delay_s, work)
