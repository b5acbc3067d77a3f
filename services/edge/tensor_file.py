"""A safetensors file at the end of another, written and read tensor by tensor: no second copy is ever in memory."""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter

from elsa.errors import MalformedError

_LENGTH = struct.Struct("<Q")
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "F32": np.dtype("<f4")}


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor's bytes are, counted from the end of the header."""

    dtype: Literal["U8", "F32"]
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]

    @property
    def payload_bytes(self) -> int:
        """That its shape asks for."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


_PLACES = TypeAdapter(dict[str, _Place])


def pieces(tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[bytes | memoryview]:
    """A file of contiguous tensors of float32 or uint8, little-endian, piece by piece."""
    ordered = sorted(tensors, key=lambda named: (-named[1].itemsize, named[0]))  # so that each is aligned
    yield _header(ordered)
    for _, values in ordered:
        yield values.reshape(-1).view(np.uint8).data


def read(file: BufferedIOBase) -> Mapping[str, np.ndarray]:
    """The tensors of a file of `pieces`, from where it stands to its end, in memory of their own.

    Raises MalformedError for any other file, before any memory is taken for its tensors; OSError.
    """
    places = _places(file)
    found = {}
    for name, place in places.items():
        found[name] = values = np.empty(place.shape, _DTYPES[place.dtype])
        room = values.reshape(-1).view(np.uint8).data
        if file.readinto(room) != len(room):
            raise MalformedError(f"tensor {name}: the file ends within it")
    return found


def _header(tensors: Iterable[tuple[str, np.ndarray]]) -> bytes:
    places, end = {}, 0
    for name, values in tensors:
        begin, end = end, end + values.nbytes
        dtype = "U8" if values.dtype == np.uint8 else "F32"
        places[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": (begin, end)}
    said = json.dumps(places).encode()
    said += b" " * (-len(said) % 8)
    return _LENGTH.pack(len(said)) + said


def _places(file: BufferedIOBase) -> Mapping[str, _Place]:
    """The tensors in the order of their bytes, which are all that there is after the header."""
    left = _left_bytes(file)
    size = _LENGTH.unpack(file.read(_LENGTH.size))[0] if left >= _LENGTH.size else left
    if size > left - _LENGTH.size:
        raise MalformedError("tensors: the header is cut off")
    places, end = _PLACES.validate_json(file.read(size)), 0
    ordered = dict(sorted(places.items(), key=lambda named: named[1].data_offsets))
    for name, place in ordered.items():
        if place.data_offsets != (end, end + place.payload_bytes):
            raise MalformedError(f"tensor {name}: its bytes are not those of its shape, in a row with the others")
        end += place.payload_bytes
    if end != left - _LENGTH.size - size:
        raise MalformedError(f"tensors: they have {end} bytes, and {left - _LENGTH.size - size} are there")
    return ordered


def _left_bytes(file: BufferedIOBase) -> int:
    here = file.tell()
    end = file.seek(0, 2)
    file.seek(here)
    return end - here
