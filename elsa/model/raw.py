"""Where a checkpoint's tensors lie in its files, so that their bytes can be read piece by piece, without torch."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from elsa.errors import CheckpointError
from elsa.model.weights import Checkpoint
from elsa.wire.manifest import ITEM_BYTES

_MOST_HEADER_BYTES = 100_000_000
"""As much as the safetensors library takes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A range of bytes in a file."""

    file: Path
    begin: int
    size_bytes: int

    def pieces(self, offset: int, piece_bytes: int) -> Iterator[bytes]:
        """The bytes from `offset` on, at most so many at a time. Raises CheckpointError if they cannot be read."""
        left = self.size_bytes - offset
        try:
            with self.file.open("rb") as opened:
                opened.seek(self.begin + offset)
                while left:
                    piece = opened.read(min(piece_bytes, left))
                    if not piece:
                        raise CheckpointError(f"{self.file} has become shorter; download or save the model again")
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise CheckpointError(f"cannot read {self.file} ({error.strerror}); save the model again") from error


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """A stored tensor: its name in the task model, its type as safetensors names it, its shape and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: Place


def whole_file(file: Path) -> Place:
    """All bytes of a file. Raises CheckpointError if it is not there."""
    try:
        return Place(file=file, begin=0, size_bytes=file.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror}); download or save the model again") from error


def raw_tensors(checkpoint: Checkpoint, names: Iterable[str]) -> list[RawTensor]:
    """Those tensors of a checkpoint, in the order given.

    Raises:
        CheckpointError: naming a tensor that is absent, of a type that does not travel, or a file that is broken.
    """
    headers: dict[Path, tuple[Mapping[str, Any], int]] = {}
    found = []
    for name in names:
        stored = checkpoint.stored_name(name)
        if stored is None:
            raise CheckpointError(f"checkpoint {checkpoint.source} has no tensor {name}; use one of the whole model")
        file = checkpoint.files[stored]
        if file not in headers:
            headers[file] = _header(file)
        found.append(_tensor(name, stored, file, *headers[file]))
    return found


def _header(file: Path) -> tuple[Mapping[str, Any], int]:
    """The header of a safetensors file, and where the tensors' bytes begin."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > _MOST_HEADER_BYTES:
                raise CheckpointError(f"cannot read {file} (header of {size} bytes); save the model again")
            return json.loads(opened.read(size)), 8 + size
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file} ({error}); download or save the model again") from error


def _tensor(name: str, stored: str, file: Path, header: Mapping[str, Any], base: int) -> RawTensor:
    try:
        entry = header[stored]
        dtype, shape = str(entry["dtype"]), tuple(int(length) for length in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read {file} (tensor {stored}: {error!r}); save the model again") from error
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"tensor {name} of {file} is {dtype}; only {', '.join(ITEM_BYTES)} can be sent")
    if end - begin != prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(f"cannot read {file} (tensor {stored}: wrong size); download or save the model again")
    return RawTensor(
        name=name, dtype=dtype, shape=shape, place=Place(file=file, begin=base + begin, size_bytes=end - begin)
    )
