"""Chunks on a stream, whichever of our stream messages carries them."""

from collections.abc import Iterator
from typing import Any

from elsa.errors import MalformedError, UnreachableError
from elsa.train.messages import Chunks
from elsa.wire.tensor import PayloadAssembler


def feeding(messages: Iterator[Any], field: str) -> Chunks:
    """Feeds an assembler from the next `messages`, all of which must be chunks until it is done.

    It raises MalformedError naming `field` for another message, ChecksumError for altered bytes, UnreachableError if
    the stream ends before the last chunk: the peer is gone, it did nothing wrong.
    """

    def feed(assembler: PayloadAssembler) -> None:
        while not assembler.done:
            message = next(messages, None)
            if message is None:
                raise UnreachableError(f"{field}: the stream ended before its last chunk")
            if message.WhichOneof("message") != "chunk":
                raise MalformedError(f"{field}: its chunks must follow it at once")
            assembler.add(message.chunk)

    return feed
