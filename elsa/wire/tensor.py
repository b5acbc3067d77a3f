"""Torch tensors as `Tensor` and `Payload` messages, and back.

What comes in is compared with the layout that the receiver expects before a byte of it is kept: type, shape,
number of bytes; then that every value is finite. So a peer can make us allocate no more than the step needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from elsa.errors import MalformedError
from elsa.v1.tensor_pb2 import Chunk, DType, Payload, Tensor
from elsa.wire.chunks import Assembler, split_chunks

DTYPES = {
    torch.float32: DType.DTYPE_FLOAT32,
    torch.float16: DType.DTYPE_FLOAT16,
    torch.bfloat16: DType.DTYPE_BFLOAT16,
    torch.int8: DType.DTYPE_INT8,
    torch.uint8: DType.DTYPE_UINT8,
    torch.int32: DType.DTYPE_INT32,
    torch.int64: DType.DTYPE_INT64,
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Type and shape that a tensor is to have."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def payload_bytes(self) -> int:
        """Size of the elements."""
        return prod(self.shape) * self.dtype.itemsize


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """Elements of `tensor`, raw, little-endian, row-major."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def payload_to_proto(
    parts: Sequence[torch.Tensor], calibration: bytes = b"", attached: bool = False
) -> tuple[Payload, list[Chunk]]:
    """`parts` as a payload with its first chunk, and the chunks that follow it on the stream."""
    headers = [Tensor(dtype=DTYPES[part.dtype], shape=list(part.shape)) for part in parts]
    first, *rest = split_chunks(b"".join(raw_bytes(part) for part in parts))
    return Payload(parts=headers, chunk=first, calibration=calibration, attached=attached), rest


class PayloadAssembler:
    """Takes a payload and the chunks after it; gives tensors of the `layouts` that the receiver expects.

    Raises MalformedError naming `field` for another type or shape, for values that are not finite, and what
    `Assembler` raises.
    """

    def __init__(self, payload: Payload, layouts: Sequence[Layout], field: str) -> None:
        _check_headers(payload.parts, layouts, field)
        self._layouts = layouts
        self._field = field
        self._bytes = Assembler(sum(layout.payload_bytes for layout in layouts), field)
        self.add(payload.chunk)

    @property
    def done(self) -> bool:
        """True once the last chunk has come."""
        return self._bytes.done

    def add(self, chunk: Chunk) -> bool:
        """Take the next chunk; True if it was the last."""
        return self._bytes.add(chunk)

    def result(self) -> list[torch.Tensor]:
        """The tensors, of the layouts given."""
        data, offset, tensors = self._bytes.result(), 0, []
        for layout in self._layouts:
            flat = _elements(data, layout, offset)
            if layout.dtype.is_floating_point and not bool(torch.isfinite(flat).all()):
                raise MalformedError(f"{self._field}: holds NaN or infinity; lower the learning rate")
            tensors.append(flat.reshape(layout.shape))
            offset += layout.payload_bytes
        return tensors


def _elements(data: bytearray, layout: Layout, offset: int) -> torch.Tensor:
    """The elements at `offset`, flat; they share memory with `data` where its alignment allows."""
    if offset % layout.dtype.itemsize:
        data, offset = data[offset : offset + layout.payload_bytes], 0
    return torch.frombuffer(data, dtype=layout.dtype, count=prod(layout.shape), offset=offset)


def _check_headers(parts: Sequence[Tensor], layouts: Sequence[Layout], field: str) -> None:
    if len(parts) != len(layouts):
        raise MalformedError(f"{field}: {len(parts)} tensors, expected {len(layouts)}")
    for index, (part, layout) in enumerate(zip(parts, layouts, strict=True)):
        if part.dtype != DTYPES[layout.dtype]:
            raise MalformedError(
                f"{field}.parts[{index}].dtype: {_dtype_name(part.dtype)}, "
                f"expected {_dtype_name(DTYPES[layout.dtype])}"
            )
        if tuple(part.shape) != layout.shape:
            raise MalformedError(f"{field}.parts[{index}].shape: {list(part.shape)}, expected {list(layout.shape)}")
        if part.data:
            raise MalformedError(f"{field}.parts[{index}].data: must be empty; the bytes travel in chunks")


def _dtype_name(value: DType.ValueType) -> str:
    return DType.Name(value) if value in DType.values() else str(value)
