"""Lets calls in by who calls: certificate, rates, role, and whether messages name the caller itself.

The interceptors stand within those that translate errors, around every handler. A caller is what TLS has checked; its
messages are held against the table of `services.rpc.policy` as they come. A certificate that is revoked or runs out
ends its open streams: with their next message, and where none comes, when open streams are looked through.
"""

import asyncio
import functools
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self

import grpc
import grpc.aio

from elsa.errors import ElsaError, UnauthenticatedError
from services.rpc import policy
from services.rpc.caller import Caller, caller_of
from services.rpc.handlers import Behavior, Handler, behavior_of, with_behavior
from services.rpc.identity import Identity
from services.rpc.open_streams import LOOKED_THROUGH_S, OpenStreams, on_a_thread
from services.rpc.rates import Buckets, Rates
from services.rpc.status import code_of, name_of

log = logging.getLogger(__name__)

REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_BURST = 1.0, 20
"""Of each identity: whoever is refused all the time does not fill the log."""
OVER = "the caller's certificate is good no more: it is revoked or has run out"
NOBODY = Identity("client", "unknown")
"""Stands for all whose certificate names nobody, where refusals are counted."""


def utc_now() -> datetime:
    """Now."""
    return datetime.now(UTC)


class Guard:
    """Who may do what at one server. For any thread.

    Args:
        server: what serves.
        revoked: whether the certificate of a serial number is revoked.
        clock: the time, with its zone.
        looked_through_s: seconds between two looks at streams that are silent.
    """

    def __init__(
        self,
        server: policy.Server,
        revoked: Callable[[int], bool],
        rates: Rates,
        clock: Callable[[], datetime] = utc_now,
        *,
        looked_through_s: float = LOOKED_THROUGH_S,
    ) -> None:
        self.rates = rates
        self.looked_through_s = looked_through_s
        self._server = server
        self._revoked = revoked
        self._clock = clock
        self._lines = Buckets(REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_BURST)
        self._lock = threading.Lock()

    def admit(self, method: str, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        """Who calls `method`, before any of its messages.

        Raises:
            UnauthenticatedError: no certificate, or one that names nobody, is revoked or has run out.
            PermissionDeniedError: its role may not call this.
            CapacityError: it calls too often.
        """
        with self.noting(method, None):
            caller = caller_of(auth_context)
        with self.noting(method, caller):
            self._check_good(caller)
            self.rates.call(caller.identity)
            policy.check_role(self._server, method, caller.identity)
        return caller

    def check(self, method: str, caller: Caller, request: Any, *, first: bool = True) -> None:
        """Check a message of a call that was let in.

        Raises UnauthenticatedError once the certificate is good no more, PermissionDeniedError for another's name.
        """
        with self.noting(method, caller):
            self._check_good(caller)
            policy.check(self._server, method, caller.identity, request, first=first)

    def recheck(self, method: str, caller: Caller) -> None:
        """Raise UnauthenticatedError once the certificate is good no more."""
        with self.noting(method, caller):
            self._check_good(caller)

    def is_over(self, caller: Caller) -> bool:
        """Whether the caller's certificate is revoked or has run out."""
        return self._clock() >= caller.not_after or self._revoked(caller.serial)

    @contextmanager
    def noting(self, method: str, caller: Caller | None) -> Iterator[None]:
        """Within it, a refusal is logged: who, what and of which kind, nothing of what was asked."""
        try:
            yield
        except ElsaError as error:
            with self._lock:
                loud = not self._lines.take(caller.identity if caller else NOBODY, 1, time.monotonic())
            if loud:
                log.warning("refused %s: %s: %s", caller or "somebody unknown", method, type(error).__name__)
            raise

    def _check_good(self, caller: Caller) -> None:
        if self._clock() >= caller.not_after:
            raise UnauthenticatedError(f"the certificate of {caller} ran out; renew it with elsa pki renew")
        if self._revoked(caller.serial):
            raise UnauthenticatedError(
                f"the certificate of {caller} is revoked; have a new one signed by elsa pki sign"
            )


class _Call:
    """One call that was let in; its messages are checked as they come."""

    def __init__(self, guard: Guard, method: str, context: Any) -> None:
        self._guard = guard
        self._method = method
        self._first = True
        self.caller = guard.admit(method, context.auth_context())

    def open_stream(self) -> None:
        """Count it as a stream. Raises CapacityError."""
        with self._guard.noting(self._method, self.caller):
            self._guard.rates.open_stream(self.caller.identity)

    def close_stream(self) -> None:
        """It has ended."""
        self._guard.rates.close_stream(self.caller.identity)

    def request(self, message: Any, size_bytes: int) -> Any:
        """The one message of a call. Raises as `Guard.check`, and CapacityError."""
        with self._guard.noting(self._method, self.caller):
            self._guard.rates.message(self.caller.identity, size_bytes)
        return self.passed(message)

    def pause_s(self, size_bytes: int) -> float:
        """Seconds until a message of a stream may be counted, 0 once it is: streams are slowed, not broken."""
        return self._guard.rates.pause_s(self.caller.identity, size_bytes)

    def passed(self, message: Any) -> Any:
        """The message, checked."""
        first, self._first = self._first, False
        self._guard.check(self._method, self.caller, message, first=first)
        return message

    def recheck(self) -> None:
        """Before an answer of a stream."""
        self._guard.recheck(self._method, self.caller)


def _sized(handler: Handler) -> Callable[[bytes], tuple[Any, int]]:
    """Gives a message and its bytes, which nobody needs to count again."""
    read = handler.request_deserializer or bytes
    return lambda data: (read(data), len(data))


def _is_stream(handler: Handler) -> bool:
    return bool(handler.request_streaming or handler.response_streaming)


def _is_untranslated(method: str) -> bool:
    """Health and reflection, which the translators leave as they are."""
    return method.startswith("/grpc.")


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
        return with_behavior(handler, _aborting(guarded) if _is_untranslated(method) else guarded, _sized(handler))

    def _guarded(self, handler: Handler, method: str) -> Behavior:
        function = behavior_of(handler)

        @functools.wraps(function)  # with its marks: health's watch holds no thread
        def guarded(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
            call = _Call(self._guard, method, context)
            if _is_stream(handler):
                self._open(call, context)
            checked = self._checked(request, call) if handler.request_streaming else call.request(*request)
            answer = function(checked, context, *more)
            return _while_good(answer, call) if handler.response_streaming and answer is not None else answer

        return guarded

    def _open(self, call: _Call, context: grpc.ServicerContext) -> None:
        call.open_stream()
        self._streams.add(call, call.caller, context.cancel)

        def close() -> None:
            self._streams.remove(call)
            call.close_stream()

        if not context.add_callback(close):  # the caller has left already
            close()

    def _checked(self, messages: Iterator[tuple[Any, int]], call: _Call) -> Iterator[Any]:
        for message, size_bytes in messages:
            while pause_s := call.pause_s(size_bytes):
                self._sleep(pause_s)
            yield call.passed(message)


def _while_good(answers: Iterable[Any], call: _Call) -> Iterator[Any]:
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


class AioGuardInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Guards an asynchronous server."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._streams = OpenStreams(guard.is_over, _on_this_loop, guard.looked_through_s)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, guarded."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        return with_behavior(handler, self._guarded(handler, method), _sized(handler))

    def _guarded(self, handler: Handler, method: str) -> Behavior:
        function, untranslated = behavior_of(handler), _is_untranslated(method)
        # Health writes a stream's answers itself, in a coroutine.
        generates = handler.response_streaming and (not untranslated or inspect.isasyncgenfunction(function))

        async def single(request: Any, context: Any) -> Any:
            with _Ending(context) as ending:
                return await function(self._admitted(handler, method, request, context, ending)[1], context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with _Ending(context) as ending:
                call, checked = self._admitted(handler, method, request, context, ending)
                async for answer in function(checked, context):
                    call.recheck()
                    with ending.away():
                        yield answer

        guarded = stream if generates else single
        return _aborting_aio(guarded, generates) if untranslated else guarded

    def _admitted(
        self, handler: Handler, method: str, request: Any, context: Any, ending: "_Ending"
    ) -> tuple[_Call, Any]:
        call = _Call(self._guard, method, context)
        if _is_stream(handler):
            self._open(call, ending)
        return call, _checked_aio(request, call) if handler.request_streaming else call.request(*request)

    def _open(self, call: _Call, ending: "_Ending") -> None:
        call.open_stream()
        self._streams.add(call, call.caller, ending.end)

        def close(_: object) -> None:
            self._streams.remove(call)
            call.close_stream()

        ending.task.add_done_callback(close)


class _Ending:
    """Within it, a cancellation that `end` brought about is an UnauthenticatedError."""

    def __init__(self, context: Any) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are handled in tasks")
        self.task = task
        self._context = context
        self._ended = False
        self._away = False
        self._abort: asyncio.Task[None] | None = None

    def end(self) -> None:
        """End the call."""
        if self._ended:
            return
        self._ended = True
        if self._away:  # a cancellation would end the task and tell the caller nothing
            self._abort = asyncio.get_running_loop().create_task(self._tell())
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
        if self._ended and kind is asyncio.CancelledError:
            self.task.uncancel()
            raise UnauthenticatedError(OVER) from error

    async def _tell(self) -> None:
        error = UnauthenticatedError(OVER)
        with suppress(grpc.aio.AbortError):
            await self._context.abort(code_of(error), str(error), name_of(error))


async def _checked_aio(messages: AsyncIterator[tuple[Any, int]], call: _Call) -> AsyncIterator[Any]:
    async for message, size_bytes in messages:
        while pause_s := call.pause_s(size_bytes):
            await asyncio.sleep(pause_s)
        yield call.passed(message)


def _on_this_loop(delay_s: float, work: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(delay_s, work)


def _aborting_aio(guarded: Behavior, generates: bool) -> Behavior:
    async def single(request: Any, context: Any) -> Any:
        try:
            return await guarded(request, context)
        except ElsaError as error:
            await context.abort(code_of(error), str(error), name_of(error))

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for answer in guarded(request, context):
                yield answer
        except ElsaError as error:
            await context.abort(code_of(error), str(error), name_of(error))

    return stream if generates else single
