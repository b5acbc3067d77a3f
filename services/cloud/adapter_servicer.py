"""`AdapterService` of the cloud: edges push aggregates and pull global adapters."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import grpc.aio

from elsa.errors import MalformedError, UnreachableError
from elsa.model.adapter_config import AdapterConfig
from elsa.v1 import adapter_pb2, adapter_pb2_grpc
from elsa.wire.chunks import Assembler, split_chunks
from services.cloud.adapters import Adapters
from services.cloud.convert import moved_from_proto, reports_from_proto
from services.cloud.pushes import Push

Context = grpc.aio.ServicerContext[Any, Any]
_DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_REPORTS = 100_000
"""Reports of one push, those in its header included; a message without any counts as one."""
MOST_REPORT_BYTES = 128 * 1024 * 1024
"""All reports of a push that come after its header."""
_LONGEST_DELIVERY_ID = 64


class AdapterServicer(adapter_pb2_grpc.AdapterServiceServicer):
    """Decodes, calls, encodes; a push that is silent for `idle_s` seconds is ended."""

    def __init__(self, adapters: Adapters, *, idle_s: float) -> None:
        self._adapters = adapters
        self._idle_s = idle_s

    async def PushAdapter(
        self, request_iterator: AsyncIterator[adapter_pb2.PushAdapterRequest], context: Context
    ) -> adapter_pb2.PushAdapterResponse:
        """See adapter.proto."""
        messages = aiter(request_iterator)
        first = await self._next(messages)
        push = push_from_proto(first)
        self._adapters.check(push)
        message, more = await self._reports(messages, len(first.header.reports))
        if more:
            push = await asyncio.to_thread(_with_reports, push, [*first.header.reports, *more])
        adapter = Assembler(push.total_bytes, "adapter")
        adapter.add(_chunk_of(message))
        while not adapter.done:
            adapter.add(_chunk_of(await self._next(messages)))
        stored = await self._adapters.take(push, bytes(adapter.result()))
        return adapter_pb2.PushAdapterResponse(stored=stored)

    async def PullAdapter(
        self, request: adapter_pb2.PullAdapterRequest, context: Context
    ) -> AsyncIterator[adapter_pb2.PullAdapterResponse]:
        """See adapter.proto."""
        if request.HasField("cluster"):
            pulled = await self._adapters.of_cluster(
                request.run_id, request.node_id, request.version, request.cluster
            )
        else:
            pulled = await self._adapters.pull(request.run_id, request.node_id, request.version, request.wait_s)
        header = adapter_pb2.PulledHeader(
            version=pulled.version,
            total_bytes=len(pulled.data),
            sha256=pulled.sha256,
            deadline_s=pulled.deadline_s,
            left_s=pulled.left_s,
        )
        yield adapter_pb2.PullAdapterResponse(header=header)
        for chunk in split_chunks(pulled.data):
            yield adapter_pb2.PullAdapterResponse(chunk=chunk)

    async def _reports(
        self, messages: AsyncIterator[adapter_pb2.PushAdapterRequest], count: int
    ) -> tuple[adapter_pb2.PushAdapterRequest, list[adapter_pb2.ClientReport]]:
        """The first message that is none of reports, and the reports before it; `count` came with the header."""
        found: list[adapter_pb2.ClientReport] = []
        size = 0
        while (message := await self._next(messages)).WhichOneof("message") == "reports":
            found += message.reports.reports
            count, size = count + max(len(message.reports.reports), 1), size + message.ByteSize()
            if count > MOST_REPORTS or size > MOST_REPORT_BYTES:
                raise MalformedError(
                    f"reports: {count} in {size} bytes; at most {MOST_REPORTS} in {MOST_REPORT_BYTES} bytes are taken"
                )
        return message, found

    async def _next(self, messages: AsyncIterator[adapter_pb2.PushAdapterRequest]) -> adapter_pb2.PushAdapterRequest:
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(messages)
        except StopAsyncIteration:
            raise MalformedError("adapter: the stream ended before its last chunk; send the rest") from None
        except TimeoutError:
            raise UnreachableError(f"adapter: nothing came for {self._idle_s:g} s; push it again") from None


def push_from_proto(message: adapter_pb2.PushAdapterRequest) -> Push:
    """The header that opens a push. Raises MalformedError naming the field.

    `edge_round` and `session_id` concern clients and their edge alone; the cloud does not read them.
    """
    if message.WhichOneof("message") != "header":
        raise MalformedError("message: the first message of a push is its header")
    header = message.header
    if not _DIGEST.fullmatch(header.sha256):
        raise MalformedError(f"header.sha256: {header.sha256[:80]!r} is not 64 lower-case hexadecimal digits")
    return Push(
        run_id=header.run_id,
        node_id=header.node_id,
        version=header.version,
        rows=header.rows,
        effective_steps=header.effective_steps,
        total_bytes=header.total_bytes,
        sha256=header.sha256,
        reports=reports_from_proto(header.reports),
        moved=moved_from_proto(header.reports),
        cluster=header.cluster if header.HasField("cluster") else None,
        parts=max(header.parts, 1),
        delivery_id=_delivery_id(header),
        cut_short=header.cut_short,
        clusters_version=header.clusters_version if header.HasField("clusters_version") else None,
        initial=header.initial,
        config=config_from_proto(header.config) if header.HasField("config") else None,
    )


def _with_reports(push: Push, reports: Sequence[adapter_pb2.ClientReport]) -> Push:
    return replace(push, reports=reports_from_proto(reports), moved=moved_from_proto(reports))


def _delivery_id(header: adapter_pb2.AdapterHeader) -> str:
    if len(header.delivery_id) > _LONGEST_DELIVERY_ID:
        raise MalformedError(
            f"header.delivery_id: {len(header.delivery_id)} characters; at most {_LONGEST_DELIVERY_ID}"
        )
    return header.delivery_id


def config_from_proto(message: adapter_pb2.AdapterConfig) -> AdapterConfig:
    """What an adapter is. Raises MalformedError naming the field."""
    if message.task not in ("classification", "causal-lm"):
        raise MalformedError(f"header.config.task: {message.task!r}; it is 'classification' or 'causal-lm'")
    if message.rank < 1 or not message.target_modules:
        raise MalformedError("header.config: rank is at least 1 and target_modules are at least one")
    return AdapterConfig(
        rank=message.rank,
        alpha=message.alpha,
        targets=tuple(message.target_modules),
        modules_to_save=tuple(message.modules_to_save),
        task="classification" if message.task == "classification" else "causal-lm",
        base=message.base_model,
        transposed=message.transposed,
    )


def _chunk_of(message: adapter_pb2.PushAdapterRequest) -> Any:
    if message.WhichOneof("message") == "reports":
        raise MalformedError("reports: they come between the header of a push and its first chunk")
    if message.WhichOneof("message") != "chunk":
        raise MalformedError("message: after the header of a push come chunks alone")
    return message.chunk
