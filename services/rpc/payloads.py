"""Tensors on a stream: a payload and its chunks, whichever of our stream messages carries them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from elsa.errors import MalformedError, UnreachableError
from elsa.v1.tensor_pb2 import Payload
from elsa.wire.codec.base import Codec
from elsa.wire.tensor import PayloadAssembler


def receive_tensor(
    payload: Payload, codec: Codec, tokens: int, width: int, field: str, messages: Iterator[Any]
) -> Callable[[], torch.Tensor]:
    """Take a (tokens, width) tensor that begins with `payload` and goes on in the chunks of the next `messages`.

    What comes back decodes it, and is to be called on the thread that computes: a second thread that runs
    parallel kernels makes the waits of both a third longer (docs/log.md).

    Raises MalformedError naming `field` for another layout than the codec gives, ChecksumError for altered bytes,
    UnreachableError if the stream ends before the last chunk: the peer is gone, it did nothing wrong. Decoding
    raises MalformedError for values that are not finite.
    """
    assembler = PayloadAssembler(payload, codec.layout(tokens, width), field)
    while not assembler.done:
        message = next(messages, None)
        if message is None:
            raise UnreachableError(f"{field}: the stream ended before its last chunk")
        if message.WhichOneof("message") != "chunk":
            raise MalformedError(f"{field}: its chunks must follow it at once")
        assembler.add(message.chunk)
    return lambda: codec.decode(assembler.result())
