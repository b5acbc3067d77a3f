"""The calls of a client to its edge: streams to train and predict through, the base's weights, adapters."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from elsa.v1 import adapter_pb2, split_pb2
from numpy_client import wire

Array = NDArray[np.float32]
Result = TypeVar("Result")
LONGEST_CALL_S = 3600.0
WAIT_S = 30.0
PAUSE_S, TRIES = 0.5, 120
PASSING = (
    grpc.StatusCode.NOT_FOUND,  # the edge has not heard of the run yet, or was restarted
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,  # the round was closed without us: the next pull says where the edge is
)
"""What may be otherwise in a moment."""


class Stream:
    """A Train or Predict stream, one micro-batch in flight at a time; close it, or use it in `with`.

    Args:
        call: the stub's method.
        request: the class of its requests.
        codecs: of h1, h2, dh2 and dh1, by name.

    Attributes:
        seconds: spent beside the edge's own work.
        up, down: bytes of messages.
    """

    def __init__(self, call: Callable[..., Any], request: type, codecs: Mapping[str, str]) -> None:
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._answers = call(iter(self._outbox.get, None), timeout=LONGEST_CALL_S)
        self._request = request
        self._codecs = codecs
        self.seconds = 0.0
        self.up = self.down = 0

    def forward(self, step: int, micro_batch: int, hidden: Array, lengths: list[int]) -> Array:
        """h2 of h1, each (tokens, width), the real tokens of all rows."""
        first, rest = wire.payload(wire.encode(hidden, self._codecs["h1"]))
        message = split_pb2.Forward(step=step, micro_batch=micro_batch, lengths=lengths, activations=first)
        result = self.ask("forward", message, "forward_result", rest)
        return self._decoded(result.activations, "h2", hidden.shape)

    def backward(self, step: int, micro_batch: int, gradient: Array, apply: bool) -> Array:
        """dL/dh1 of dL/dh2, each (tokens, width)."""
        first, rest = wire.payload(wire.encode(gradient, self._codecs["dh2"]))
        message = split_pb2.Backward(step=step, micro_batch=micro_batch, gradient=first, apply=apply)
        result = self.ask("backward", message, "backward_result", rest)
        return self._decoded(result.gradient, "dh1", gradient.shape)

    def ask(self, kind: str, message: Any, answer: str, chunks: list[Any] | None = None) -> Any:
        """Send a message with its chunks; the answer, which must be of the kind `answer`."""
        begin = time.perf_counter()
        self._send(**{kind: message})
        for chunk in chunks or ():
            self._send(chunk=chunk)
        result = self._receive(answer)
        at_edge = result.wait_s + result.trunk_s if answer.endswith("_result") else 0.0
        self.seconds += max(time.perf_counter() - begin - at_edge, 0.0)
        return result

    def close(self) -> None:
        """Half-close, and hear no more."""
        self._outbox.put(None)
        self._answers.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, **message: Any) -> None:
        request = self._request(**message)
        self.up += request.ByteSize()
        self._outbox.put(request)

    def _receive(self, kind: str) -> Any:
        answer = next(self._answers, None)
        found = answer and answer.WhichOneof("message")
        if answer is None or found != kind:
            raise ValueError(f"the edge answered with {found or 'the end of the stream'} in place of {kind}")
        self.down += answer.ByteSize()
        return getattr(answer, kind)

    def _decoded(self, payload: Any, tensor: str, shape: tuple[int, ...]) -> Array:
        codec = self._codecs[tensor]
        parts = wire.parts_of(payload, wire.layout(codec, *shape), lambda: self._receive("chunk"))
        return wire.decode(parts, codec)


def patiently(call: Callable[[], Result]) -> Result:
    """`call()`, made again for a minute while what it meets may pass. Raises grpc.RpcError."""
    tries = 0
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            tries += 1
            if error.code() not in PASSING or tries > TRIES:
                raise
        time.sleep(PAUSE_S)


def fetch(stub: Any, request: split_pb2.FetchBlocksRequest) -> tuple[dict[str, bytes], dict[str, Array]]:
    """Files and tensors of a run's base, by name. Raises ValueError for contents with another digest."""
    stream = stub.FetchBlocks(request, timeout=LONGEST_CALL_S)
    manifest = next(stream).manifest
    stream.cancel()
    digests = dict.fromkeys(entry.sha256 for entry in (*manifest.files, *manifest.tensors))
    wanted = split_pb2.FetchBlocksRequest(wanted=[split_pb2.WantedContent(sha256=digest) for digest in digests])
    wanted.MergeFrom(request)
    messages = stub.FetchBlocks(wanted, timeout=LONGEST_CALL_S)
    next(messages)  # the manifest again
    contents = {message.content.sha256: wire.joined(each.chunk for each in messages) for message in messages}
    for digest, data in contents.items():
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"the edge sent other contents than {digest}")
    return {entry.name: contents[entry.sha256] for entry in manifest.files}, {
        entry.name: wire.floats(contents[entry.sha256], entry.dtype, tuple(entry.shape)) for entry in manifest.tensors
    }


def pull(stub: Any, request: adapter_pb2.PullAdapterRequest) -> tuple[adapter_pb2.PulledHeader, dict[str, Array]]:
    """An adapter, once it is there. Raises grpc.RpcError if the run ended or the edge does not answer."""
    request.wait_s = WAIT_S
    while True:
        messages = stub.PullAdapter(request, timeout=LONGEST_CALL_S)
        try:
            header = next(messages).header
            data = wire.joined(message.chunk for message in messages)
        except grpc.RpcError as error:
            keys = [each.key for each in error.trailing_metadata() or ()]
            named = "elsa-error" in keys  # the edge's own word: not there yet
            if error.code() is not grpc.StatusCode.UNAVAILABLE or not named:
                raise
            continue
        if hashlib.sha256(data).hexdigest() != header.sha256:
            raise ValueError("the adapter that came is not the one that was announced")
        return header, wire.read_adapter(data)


def push(stub: Any, header: adapter_pb2.AdapterHeader, tensors: Mapping[str, Array]) -> None:
    """Push an adapter under a header, whose size and digest are filled in."""
    data = wire.write_adapter(tensors)
    header.total_bytes, header.sha256 = len(data), hashlib.sha256(data).hexdigest()

    def messages() -> Iterator[adapter_pb2.PushAdapterRequest]:
        yield adapter_pb2.PushAdapterRequest(header=header)
        for chunk in wire.chunks(data):
            yield adapter_pb2.PushAdapterRequest(chunk=chunk)

    stub.PushAdapter(messages(), timeout=LONGEST_CALL_S)
