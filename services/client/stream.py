"""A bidirectional stream to an edge, as a client uses it: send, wait for the next answer, count the bytes."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from elsa.errors import UnreachableError
from elsa.train.phases import ByteCount
from services.rpc.status import translated


class Stream:
    """One call of a bidirectional method.

    Args:
        call: the stub's method.
        peer: the edge, for error texts.
    """

    def __init__(self, call: Callable[[Iterator[Any]], Any], peer: str) -> None:
        self._peer = peer
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._call = call(iter(self._outbox.get, None))
        self.bytes = ByteCount()

    def send(self, message: Any) -> None:
        """Queue a message; never blocks."""
        self.bytes += ByteCount(up=message.ByteSize())
        self._outbox.put(message)

    def receive(self) -> Any:
        """Wait for the next message. Raises what the edge answered, UnreachableError if the stream broke."""
        with translated(self._peer):
            message = next(self._call, None)
        if message is None:
            raise UnreachableError(f"{self._peer} ended the stream early")
        self.bytes += ByteCount(down=message.ByteSize())
        return message

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.receive()

    def close(self) -> None:
        """Half-close: nothing more is sent."""
        self._outbox.put(None)

    def cancel(self) -> None:
        """End the call now."""
        self.close()
        self._call.cancel()
