"""Long byte sequences as `Chunk` messages of at most 1 MiB, and back, checked piece by piece."""

import zlib
from collections.abc import Iterator

from elsa.errors import ChecksumError, MalformedError
from elsa.v1.tensor_pb2 import Chunk

MAX_MESSAGE_BYTES = 1 << 20
"""Limit of every message; what is larger is cut into chunks."""

CHUNK_BYTES = 1 << 19
"""Size of the pieces that we send: between 256 KiB and 1 MiB gRPC moves fastest."""

MAX_CHUNK_BYTES = 1_000_000
"""Largest piece that we take."""


def split_chunks(data: bytes | memoryview, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """`data` as chunks of at most `chunk_bytes` bytes, in order; one empty chunk if there is no data."""
    view = memoryview(data).cast("B")
    for offset in range(0, max(len(view), 1), chunk_bytes):
        piece = bytes(view[offset : offset + chunk_bytes])
        last = offset + chunk_bytes >= len(view)
        yield Chunk(offset=offset, data=piece, crc32=zlib.crc32(piece), last=last)


class ChunkOrder:
    """Checks that chunks come in order and whole, refusing gaps, excess and altered pieces.

    Args:
        received: bytes at the beginning that are there already.

    Raises, from `take`:
        MalformedError: a chunk out of place, too large, beyond the total, without data before the end, or last at
            the wrong place.
        ChecksumError: a chunk whose CRC-32 is not that of its data.
    """

    def __init__(self, total_bytes: int, field: str, received: int = 0) -> None:
        self._total_bytes = total_bytes
        self._field = field
        self.received = received
        self.done = False

    def take(self, chunk: Chunk) -> bytes:
        """The data of the next piece."""
        self._check_place(chunk)
        if zlib.crc32(chunk.data) != chunk.crc32:
            raise ChecksumError(
                f"{self._field}: chunk at offset {chunk.offset} has the wrong checksum; send it again"
            )
        self.received += len(chunk.data)
        self.done = chunk.last
        return chunk.data

    def check_done(self) -> None:
        """Raise MalformedError if the last chunk has not come."""
        if not self.done:
            raise MalformedError(
                f"{self._field}: ended at {self.received} of {self._total_bytes} bytes; send the rest"
            )

    def _check_place(self, chunk: Chunk) -> None:
        if self.done:
            raise MalformedError(f"{self._field}: a chunk after the last one")
        if chunk.offset != self.received:
            raise MalformedError(f"{self._field}: chunk at offset {chunk.offset}, expected offset {self.received}")
        if len(chunk.data) > MAX_CHUNK_BYTES:
            raise MalformedError(
                f"{self._field}: chunk of {len(chunk.data)} bytes; at most {MAX_CHUNK_BYTES} are allowed"
            )
        end = chunk.offset + len(chunk.data)
        if end > self._total_bytes:
            raise MalformedError(f"{self._field}: more than the {self._total_bytes} bytes that were announced")
        if chunk.last != (end == self._total_bytes):
            raise MalformedError(
                f"{self._field}: chunk at offset {chunk.offset} says last={chunk.last} at {end} of "
                f"{self._total_bytes} bytes"
            )
        if not chunk.data and not chunk.last:  # a stream of these would never end
            raise MalformedError(f"{self._field}: chunk at offset {chunk.offset} is empty; send the rest")


class Assembler:
    """Puts chunks together again into `total_bytes` bytes. `add` raises as `ChunkOrder`, keeping nothing then."""

    def __init__(self, total_bytes: int, field: str) -> None:
        self._order = ChunkOrder(total_bytes, field)
        self._data = bytearray()

    @property
    def done(self) -> bool:
        """True once the last chunk has come."""
        return self._order.done

    def add(self, chunk: Chunk) -> bool:
        """Take the next piece; True if it was the last."""
        self._data += self._order.take(chunk)
        return self.done

    def result(self) -> bytearray:
        """All bytes. Raises MalformedError if the last chunk has not come."""
        self._order.check_done()
        return self._data
