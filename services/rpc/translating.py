"""What a server answers besides its handlers' answers: who it is, with every call, and what an error means.

Handlers raise; here, around each, an `ElsaError` becomes a status code, its text and, in the trailers, its kind.
Everything else is an internal error, whose detail stays in the log.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from elsa.errors import ElsaError
from services.rpc.handlers import Behavior, behavior_of, with_behavior
from services.rpc.introduction import Introduction, Metadata
from services.rpc.status import code_of, name_of

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 2000
"""Longest error text that is sent. Up to three times as long when percent-encoded; callers take trailers of 8 KiB."""


class Translator(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Introduces the server with each call of synchronous handlers, and gives their errors as status codes."""

    def __init__(self, introduction: Introduction) -> None:
        self._introduction = introduction

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return with_behavior(handler, self._wrap(behavior_of(handler), handler.response_streaming))

    def _wrap(self, function: Behavior, streams: bool) -> Behavior:
        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            context.set_trailing_metadata(self._introduction())
            try:
                return function(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost loop of a call
                self._abort(error, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            context.set_trailing_metadata(self._introduction())
            try:
                yield from function(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost loop of a call
                self._abort(error, context)

        return stream if streams else unary

    def _abort(self, error: Exception, context: grpc.ServicerContext) -> None:
        if not context.is_active():  # the caller is gone: nobody to tell
            log.debug("a call that its caller had left failed", exc_info=error)
            if isinstance(error, grpc.RpcError):  # gRPC's own, from a wait for requests: it knows
                raise error
            return
        code, text, metadata = _status(error, context)
        context.set_trailing_metadata((*metadata, *self._introduction()))
        context.abort(code, text)


class AioTranslator(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The same of asynchronous handlers."""

    def __init__(self, introduction: Introduction) -> None:
        self._introduction = introduction

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return with_behavior(handler, self._wrap(behavior_of(handler), handler.response_streaming))

    def _wrap(self, function: Behavior, streams: bool) -> Behavior:
        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            context.set_trailing_metadata(self._introduction())
            try:
                return await function(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # noqa: BLE001 - the outermost loop of a call
                await self._abort(error, context)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            context.set_trailing_metadata(self._introduction())
            try:
                async for response in function(request, context):
                    yield response
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # noqa: BLE001 - the outermost loop of a call
                await self._abort(error, context)

        return stream if streams else unary

    async def _abort(self, error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        code, text, metadata = _status(error, context)
        await context.abort(code, text, (*metadata, *self._introduction()))


def _status(error: Exception, context: Any) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, text and trailing metadata of a call that ended with `error`."""
    if isinstance(error, ElsaError):
        return code_of(error), _short(str(error)), name_of(error)
    if isinstance(error, NotImplementedError) and context.code() is grpc.StatusCode.UNIMPLEMENTED:
        return grpc.StatusCode.UNIMPLEMENTED, "this server does not offer the call", ()  # generated code's own answer
    log.error("a call failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "internal error; see the server's log", ()


def _short(text: str) -> str:
    """`text` cut to what surely fits a trailer; a peer drops the whole status where it does not."""
    kept = text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
    return text if kept == text else f"{kept} …"
