"""A bidirectional stream to an edge, as a client uses it: send, wait for the next answer, count the bytes."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from elsa.errors import ElsaError, UnreachableError
from elsa.train.phases import ByteCount
from services.rpc.status import translated

STREAM_TIMEOUT_S = 3600.0


class Stream:
    """One call of a bidirectional method.

    Args:
        call: the stub's method.
        peer: the edge, for error texts.
        timeout_s: seconds for the whole stream.

    Raises UnreachableError if the channel is closed.
    """

    def __init__(self, call: Callable[..., Any], peer: str, timeout_s: float) -> None:
        self._peer = peer
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        with translated(peer):
            self._call = call(iter(self._outbox.get, None), timeout=timeout_s)
        self.bytes = ByteCount()

    def send(self, message: Any) -> None:
        """Queue a message; never blocks."""
        self.bytes += ByteCount(up=message.ByteSize())
        self._outbox.put(message)

    def receive(self) -> Any:
        """Wait for the next message. Raises what the edge answered, UnreachableError if the stream broke."""
        try:
            with translated(self._peer):
                message = next(self._call, None)
            if message is None:
                raise UnreachableError(f"{self._peer} ended the stream early")
        except ElsaError:
            self.close()  # gRPC's thread that takes from the outbox would wait for ever
            raise
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
