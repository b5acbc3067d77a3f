"""Chunks: cutting and assembling are inverse, and whatever breaks the contract is refused by name."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import ChecksumError, MalformedError
from elsa.v1.tensor_pb2 import Chunk
from elsa.wire.chunks import CHUNK_BYTES, MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, Assembler, split_chunks


def chunk(offset, data, last=False):
    return Chunk(offset=offset, data=data, crc32=zlib.crc32(data), last=last)


def assemble(chunks, total_bytes):
    pieces = Assembler(total_bytes, "field")
    for piece in chunks:
        pieces.add(Chunk.FromString(piece.SerializeToString()))
    return bytes(pieces.result())


@given(st.binary(max_size=200), st.integers(1, 70))
def test_assembling_inverts_cutting(data, chunk_bytes):
    chunks = list(split_chunks(data, chunk_bytes))
    assert assemble(chunks, len(data)) == data
    assert [piece.last for piece in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(0 < len(piece.data) <= chunk_bytes for piece in chunks) or not data


def test_what_is_cut_are_bytes_whatever_the_view_holds():
    numbers = np.arange(10, dtype=np.float32)
    assert assemble(split_chunks(memoryview(numbers), 7), 40) == numbers.tobytes()


def test_our_chunks_are_taken_and_fit_a_message():
    pieces = list(split_chunks(bytes(5_000_000)))
    assert all(piece.ByteSize() <= MAX_MESSAGE_BYTES and len(piece.data) <= MAX_CHUNK_BYTES for piece in pieces)
    assert CHUNK_BYTES <= MAX_CHUNK_BYTES < MAX_MESSAGE_BYTES
    assert assemble(pieces, 5_000_000) == bytes(5_000_000)


@pytest.mark.parametrize(
    ("chunks", "total_bytes", "text"),
    [
        ([chunk(0, b"ab"), chunk(3, b"d", last=True)], 4, "offset 3, expected offset 2"),
        ([chunk(0, b"ab"), chunk(1, b"bcd", last=True)], 4, "offset 1, expected offset 2"),
        ([chunk(1, b"b", last=True)], 2, "offset 1, expected offset 0"),
        ([chunk(0, b"abc", last=True)], 2, "more than the 2 bytes"),
        ([chunk(0, b"ab"), chunk(2, b"cd", last=True)], 3, "more than the 3 bytes"),
        ([chunk(0, b"ab", last=True)], 4, "says last=True at 2 of 4"),
        ([chunk(0, b"ab"), chunk(2, b"cd")], 4, "says last=False at 4 of 4"),
        ([chunk(0, b"")], 0, "says last=False at 0 of 0"),
        ([chunk(0, b"")], 4, "is empty"),
        ([chunk(0, b"ab"), chunk(2, b"")], 4, "is empty"),
        ([chunk(0, bytes(MAX_CHUNK_BYTES + 1))], 2 * MAX_CHUNK_BYTES, f"at most {MAX_CHUNK_BYTES}"),
        ([chunk(0, b"ab", last=True), chunk(2, b"", last=True)], 2, "after the last"),
        ([chunk(0, b"", last=True), chunk(0, b"", last=True)], 0, "after the last"),
    ],
)
def test_a_chunk_out_of_place_is_refused(chunks, total_bytes, text):
    pieces = Assembler(total_bytes, "some.field")
    for piece in chunks[:-1]:
        pieces.add(piece)
    with pytest.raises(MalformedError, match=rf"^some\.field: .*{text}"):
        pieces.add(chunks[-1])


@given(st.binary(min_size=1, max_size=50), st.data())
def test_an_altered_byte_is_found_and_nothing_of_it_kept(data, draw):
    piece = chunk(0, data, last=True)
    altered = bytearray(data)
    altered[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    pieces = Assembler(len(data), "some.field")
    with pytest.raises(ChecksumError, match=r"some\.field: chunk at offset 0"):
        pieces.add(Chunk(offset=0, data=bytes(altered), crc32=piece.crc32, last=True))
    pieces.add(piece)
    assert bytes(pieces.result()) == data


def test_an_end_without_the_last_chunk_is_refused():
    pieces = Assembler(4, "some.field")
    with pytest.raises(MalformedError, match=r"some\.field: ended at 0 of 4"):
        pieces.result()
    pieces.add(chunk(0, b"ab"))
    with pytest.raises(MalformedError, match=r"some\.field: ended at 2 of 4"):
        pieces.result()
