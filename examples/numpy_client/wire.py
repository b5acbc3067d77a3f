"""Arrays as bytes: tensors and their chunks, three codecs, and adapters as safetensors files."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa.v1.tensor_pb2 import Bfloat16Codec, Chunk, CodecSpec, CodecStage, DType, Int8Codec, Payload, Tensor

Array = NDArray[np.float32]
Part = tuple[DType.ValueType, NDArray[np.generic]]
"""An array and what its elements are on the wire: bfloat16 is kept in uint16."""

CHUNK_BYTES = 1_000_000
F32, BF16, I8 = DType.DTYPE_FLOAT32, DType.DTYPE_BFLOAT16, DType.DTYPE_INT8
KINDS: Mapping[int, str] = {F32: "<f4", DType.DTYPE_FLOAT16: "<f2", BF16: "<u2", I8: "i1"}
CODECS: Mapping[str, CodecSpec] = {
    "none": CodecSpec(),
    "bf16": CodecSpec(stages=[CodecStage(bf16=Bfloat16Codec())]),
    "int8": CodecSpec(stages=[CodecStage(int8=Int8Codec())]),
}
"""The codecs that this client knows, by their names in a specification; docs/codecs.md says what each does."""


def encode(values: Array, codec: str) -> list[Part]:
    """A tensor of a step, (tokens, width), as the codec lays it out."""
    if codec == "bf16":
        return [(BF16, _as_bf16(values))]
    if codec == "int8":
        scales = _as_bf16(np.clip(np.abs(values).max(1) / 127, 2.0**-120, 2.0**120))
        codes = np.rint(values / _of_bf16(scales)[:, None]).clip(-127, 127)
        return [(BF16, scales), (I8, codes.astype("i1"))]
    return [(F32, values.astype("<f4"))]


def layout(codec: str, tokens: int, width: int) -> list[tuple[int, tuple[int, ...]]]:
    """Element types and shapes of what `encode` gives, and of what the edge must send."""
    if codec == "int8":
        return [(BF16, (tokens,)), (I8, (tokens, width))]
    return [(BF16 if codec == "bf16" else F32, (tokens, width))]


def decode(parts: list[NDArray[np.generic]], codec: str) -> Array:
    """What `encode` was given, as far as the codec keeps it."""
    if codec == "bf16":
        return _of_bf16(parts[0])
    if codec == "int8":
        return parts[1].astype(np.float32) * _of_bf16(parts[0])[:, None]
    return parts[0].astype(np.float32)


def payload(parts: list[Part]) -> tuple[Payload, list[Chunk]]:
    """A payload with its first chunk, and the chunks that follow it on the stream."""
    first, *rest = chunks(b"".join(values.tobytes() for _, values in parts))
    return Payload(parts=[Tensor(dtype=kind, shape=values.shape) for kind, values in parts], chunk=first), rest


def parts_of(message: Payload, wanted: list[tuple[int, tuple[int, ...]]], more: Callable[[], Chunk]) -> list[Any]:
    """The arrays of a payload, if they are as `wanted`; `more` gives the chunks that follow. Raises ValueError."""
    found = [(part.dtype, tuple(part.shape)) for part in message.parts]
    if found != wanted:
        raise ValueError(f"the edge sent {found}, and {wanted} was agreed")
    data, parts = joined(_and_then(message.chunk, more)), []
    for kind, shape in wanted:
        size = prod(shape) * np.dtype(KINDS[kind]).itemsize
        parts.append(np.frombuffer(data[:size], KINDS[kind]).reshape(shape))
        data = data[size:]
    return parts


def chunks(data: bytes) -> Iterator[Chunk]:
    """`data` in pieces, one at least."""
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        piece = data[offset : offset + CHUNK_BYTES]
        yield Chunk(offset=offset, data=piece, crc32=zlib.crc32(piece), last=offset + len(piece) == len(data))


def joined(pieces: Iterator[Chunk]) -> bytes:
    """The bytes of chunks up to the last. Raises ValueError for a gap or another checksum."""
    data = bytearray()
    for piece in pieces:
        if piece.offset != len(data) or zlib.crc32(piece.data) != piece.crc32:
            raise ValueError(f"chunk at {piece.offset}: out of order, or altered on the way")
        data += piece.data
        if piece.last:
            return bytes(data)
    raise ValueError("the stream ended before the last chunk")


def read_adapter(data: bytes) -> dict[str, Array]:
    """The tensors of a safetensors file: the length of a header, the header in JSON, and the bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    entries = {name: entry for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    return {name: _tensor(data[start:], entry) for name, entry in entries.items()}


def write_adapter(tensors: Mapping[str, Array]) -> bytes:
    """A safetensors file of float32 tensors, names in order."""
    header, offset = {}, 0
    for name in sorted(tensors):
        size = 4 * tensors[name].size
        header[name] = {"dtype": "F32", "shape": tensors[name].shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors[n].astype("<f4").tobytes() for n in header)


def floats(data: bytes, kind: int, shape: tuple[int, ...]) -> Array:
    """A tensor of the base as float32. Raises ValueError for a type that is no floating point."""
    if kind not in (F32, DType.DTYPE_FLOAT16, BF16):
        raise ValueError(f"a weight of type {kind}; this client reads floating point alone")
    raw = np.frombuffer(data, KINDS[kind]).reshape(shape)
    return _of_bf16(raw) if kind == BF16 else raw.astype(np.float32)


def _tensor(data: bytes, entry: Mapping[str, list[int]]) -> Array:
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])


def _as_bf16(values: Array) -> NDArray[np.uint16]:
    """The upper halves, rounded to the nearest, of two as near to the even one."""
    bits = values.astype("<f4").view("<u4")
    rounded: NDArray[np.uint32] = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16)


def _of_bf16(halves: NDArray[np.generic]) -> Array:
    return (halves.astype("<u4") << 16).view("<f4")


def _and_then(first: Chunk, more: Callable[[], Chunk]) -> Iterator[Chunk]:
    yield first
    while True:
        yield more()
