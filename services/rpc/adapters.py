"""Adapters over `AdapterService`: the caller's push and pull, and the receiver's half of a push."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from elsa.errors import (
    ChecksumError,
    DrainingError,
    ElsaError,
    MalformedError,
    RoundGivenUpError,
    UnreachableError,
)
from elsa.v1 import adapter_pb2 as pb
from elsa.wire.chunks import Assembler, split_chunks
from services.rpc.status import translated
from services.rpc.waiting import Telling

log = logging.getLogger(__name__)

MAX_ADAPTER_BYTES = 1 << 30
"""Largest adapter that is taken; a rank-8 adapter of a model of 7 billion parameters has some 20 MB."""

TRANSFER_TIMEOUT_S = 300.0
MOST_REPORTS_BYTES = 1 << 19
"""Of reports in one message."""
MAX_WAIT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
"""Between tries of a pull from a peer that is away."""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """An adapter as it was pulled: safetensors bytes, and the round that it belongs to."""

    version: int
    edge_round: int = 0
    data: bytes
    cluster: int | None = None
    """From an edge, of a whole version: the caller's cluster, where it has an adapter of its own of this version."""
    left_s: float | None = None
    """From the cloud: of the time of the round on this version; None where none is open."""


def push(stub: Any, header: pb.AdapterHeader, data: bytes) -> bool:
    """Push `data` under `header`, whose size and digest are filled in; whether it was new to the receiver."""
    header.total_bytes = len(data)
    header.sha256 = hashlib.sha256(data).hexdigest()

    short, rest = _shortened(header)

    def messages() -> Iterator[pb.PushAdapterRequest]:
        yield pb.PushAdapterRequest(header=short)
        for reports in rest:
            yield pb.PushAdapterRequest(reports=pb.ClientReports(reports=reports))
        for chunk in split_chunks(data):
            yield pb.PushAdapterRequest(chunk=chunk)

    return bool(stub.PushAdapter(messages(), timeout=TRANSFER_TIMEOUT_S).stored)


def _shortened(header: pb.AdapterHeader) -> tuple[pb.AdapterHeader, list[list[pb.ClientReport]]]:
    """A header that goes into a message, and what reports follow it, as many at a time as go into one."""
    if header.ByteSize() <= MOST_REPORTS_BYTES:
        return header, []
    parts: list[list[pb.ClientReport]] = []
    room = 0
    for report in header.reports:
        size = report.ByteSize() + 8
        if size > room:
            parts.append([])
            room = MOST_REPORTS_BYTES
        parts[-1].append(report)
        room -= size
    short = pb.AdapterHeader()
    short.CopyFrom(header)
    del short.reports[:]
    return short, parts


def pull(stub: Any, request: pb.PullAdapterRequest) -> Pulled:
    """Pull the newest adapter at or past what `request` asks for.

    Raises MalformedError for a broken stream, ChecksumError if the whole is not what its digest says.
    """
    messages = stub.PullAdapter(request, timeout=request.wait_s + TRANSFER_TIMEOUT_S)
    try:
        return _pulled(messages)
    finally:
        messages.cancel()  # a broken answer would hold the server's thread; a whole one has ended


def _pulled(messages: Iterator[pb.PullAdapterResponse]) -> Pulled:
    first = next(messages, None)
    if first is None or first.WhichOneof("message") != "header":
        raise MalformedError("PullAdapterResponse.message: the first must be a header")
    header = first.header
    pieces = Assembler(_bounded(header.total_bytes, "PulledHeader"), "PullAdapterResponse.chunk")
    for message in messages:
        if message.WhichOneof("message") != "chunk":
            raise MalformedError("PullAdapterResponse.message: after the header only chunks may come")
        pieces.add(message.chunk)
    data = bytes(pieces.result())
    check_digest(data, header.sha256, "PulledHeader.sha256")
    cluster = header.cluster if header.HasField("cluster") else None
    return Pulled(
        version=header.version,
        edge_round=header.edge_round,
        data=data,
        cluster=cluster,
        left_s=_left_s(header),
    )


def _left_s(header: pb.PulledHeader) -> float | None:
    """What is left of a round; all of it from a cloud that only says that."""
    for field in ("left_s", "deadline_s"):
        if header.HasField(field):
            seconds = float(getattr(header, field))
            if not 0 < seconds < math.inf:
                raise MalformedError(f"PulledHeader.{field}: {seconds}; it must be more than 0")
            return seconds
    return None


def pulled_messages(pulled: Pulled) -> Iterator[pb.PullAdapterResponse]:
    """What a server streams to answer a pull."""
    digest = hashlib.sha256(pulled.data).hexdigest()
    yield pb.PullAdapterResponse(
        header=pb.PulledHeader(
            version=pulled.version,
            edge_round=pulled.edge_round,
            total_bytes=len(pulled.data),
            sha256=digest,
            cluster=pulled.cluster,
        )
    )
    for chunk in split_chunks(pulled.data):
        yield pb.PullAdapterResponse(chunk=chunk)


class PushReceiver:
    """The receiver's half of a push: takes its messages one by one.

    Raises MalformedError for a message out of place or an adapter too large, ChecksumError for altered bytes.
    """

    def __init__(self) -> None:
        self.header: pb.AdapterHeader | None = None
        self._pieces: Assembler | None = None

    def add(self, message: pb.PushAdapterRequest) -> None:
        """Take the next message."""
        kind = message.WhichOneof("message")
        if kind == "header":
            if self.header is not None:
                raise MalformedError("PushAdapterRequest.header: came twice")
            self.header = message.header
            self._pieces = Assembler(
                _bounded(message.header.total_bytes, "AdapterHeader"), "PushAdapterRequest.chunk"
            )
        elif self._pieces is None:
            raise MalformedError("PushAdapterRequest.message: the first must be a header")
        elif kind is None:
            raise MalformedError("PushAdapterRequest.message: holds neither a header nor a chunk")
        else:
            self._pieces.add(message.chunk)

    def result(self) -> tuple[pb.AdapterHeader, bytes]:
        """The header and all bytes, compared with the header's digest."""
        if self.header is None or self._pieces is None:
            raise MalformedError("PushAdapterRequest.message: the stream was empty")
        data = bytes(self._pieces.result())
        check_digest(data, self.header.sha256, "AdapterHeader.sha256")
        return self.header, data


def check_digest(data: bytes, sha256: str, field: str) -> None:
    """Raise ChecksumError if `data` has another SHA-256."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ChecksumError(f"{field}: the {len(data)} bytes that came have another digest; send them again")


def _bounded(total_bytes: int, message: str) -> int:
    if total_bytes > MAX_ADAPTER_BYTES:
        raise MalformedError(f"{message}.total_bytes: {total_bytes}; at most {MAX_ADAPTER_BYTES} are taken")
    return total_bytes


class _Away:
    """A peer that gives no adapter for a while: how long to wait for it, and what to say.

    Args:
        patience_s: for how long in all.
        since_s: by the clock, when it began.
    """

    def __init__(self, peer: str, patience_s: float, since_s: float) -> None:
        self._peer = peer
        self._patience_s = patience_s
        self._ends_s = since_s + patience_s
        self._next_s = FIRST_PAUSE_S
        self._telling = Telling()

    def pause_s(self, error: ElsaError, now: float) -> float:
        """Seconds to wait before the next try; each longer than the one before.

        Raises an error of the same kind, with its text, once the patience is spent.
        """
        left_s = self._ends_s - now
        if left_s <= 0:
            did = "did not answer" if isinstance(error, UnreachableError) else "gave no adapter"
            raise type(error)(f"{self._peer} {did} for {self._patience_s:g} s; gave up: {error}") from error
        if self._telling.is_due(str(error), now):
            log.warning("%s; trying again for %.0f s more", error, left_s)
        pause_s, self._next_s = min(self._next_s, left_s), min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s


def pull_when_there(
    stub: Any,
    request: pb.PullAdapterRequest,
    peer: str,
    *,
    stop: threading.Event,
    patience_s: float,
    passing: tuple[type[ElsaError], ...] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Pulled:
    """Pull, asking again while the adapter is not there yet, or while `peer` is away for less than `patience_s`.

    Args:
        passing: other errors that are waited out like an absence, with the same growing pauses.

    Raises RoundGivenUpError if the run ended or `stop` was set, UnreachableError if `peer` stayed away, and what is
    `passing` if that did not pass.
    """
    request.wait_s = min(request.wait_s or MAX_WAIT_S / 2, MAX_WAIT_S)
    again: tuple[type[ElsaError], ...] = (UnreachableError, *passing)
    away: _Away | None = None
    while not stop.is_set():
        try:
            with translated(peer):
                return pull(stub, request)
        except DrainingError:
            away = None
            stop.wait(0.05)
        except again as error:
            if stop.is_set():
                break
            now = clock()
            away = away or _Away(peer, patience_s, now)
            stop.wait(away.pause_s(error, now))
    raise RoundGivenUpError(f"stopped while waiting for an adapter of {peer}")
