"""Rows that an end of a stream keeps, so that they need not travel again: in memory up to a bound, then on disk.

What is on disk lies in a file without a name, which goes with the process. One thread at a time.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from elsa.wire.codec.base import Codec
from elsa.wire.tensor import Layout, raw_bytes


class Shelf:
    """The room that all kept rows of a process share.

    Args:
        memory_bytes, disk_bytes: bounds; nothing is kept beyond them.
        folder: where the files lie; None for the system's place for temporary files.
    """

    def __init__(self, memory_bytes: int, disk_bytes: int, folder: Path | None = None) -> None:
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.folder = folder


@dataclass(frozen=True, kw_only=True)
class _Kept:
    codec: Codec
    layouts: Sequence[Layout]
    payload_bytes: int
    parts: Sequence[torch.Tensor] | None  # None: on disk, at `offset`
    offset: int = 0


class KeptRows:
    """Rows by number, each as the parts of a codec. `close` gives the room back."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._rows: dict[int, _Kept] = {}
        self._file: IO[bytes] | None = None
        self._written = 0

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, row: int) -> int:
        """Tokens of a row that is kept."""
        return self._rows[row].layouts[0].shape[0]

    def put(self, row: int, parts: Sequence[torch.Tensor], codec: Codec) -> bool:
        """Keep a row in place of what was kept of it; False if there is no room, and then nothing is kept of it."""
        before = self._rows.get(row)
        self.drop(row)
        layouts = [Layout(dtype=part.dtype, shape=tuple(part.shape)) for part in parts]
        payload_bytes = sum(layout.payload_bytes for layout in layouts)
        if payload_bytes <= self._shelf.memory_bytes:
            self._shelf.memory_bytes -= payload_bytes
            kept = [part.clone() for part in parts]  # a slice would hold its whole batch
            self._rows[row] = _Kept(codec=codec, layouts=layouts, payload_bytes=payload_bytes, parts=kept)
            return True
        same_place = before is not None and before.parts is None and before.payload_bytes == payload_bytes
        if not same_place and payload_bytes > self._shelf.disk_bytes:
            return False
        offset = self._write(b"".join(map(raw_bytes, parts)), before.offset if before and same_place else None)
        self._rows[row] = _Kept(codec=codec, layouts=layouts, payload_bytes=payload_bytes, parts=None, offset=offset)
        return True

    def get(self, row: int) -> tuple[Codec, Sequence[torch.Tensor]]:
        """The codec and the parts of a row that is kept."""
        kept = self._rows[row]
        return kept.codec, self._read(kept) if kept.parts is None else kept.parts

    def drop(self, row: int) -> None:
        """Keep a row no more; room on disk comes back with `clear` alone."""
        kept = self._rows.pop(row, None)
        if kept is not None and kept.parts is not None:
            self._shelf.memory_bytes += kept.payload_bytes

    def clear(self) -> None:
        """Keep nothing any more."""
        for row in list(self._rows):
            self.drop(row)
        self._shelf.disk_bytes += self._written
        self._written = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes, place: int | None) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._shelf.folder)  # noqa: SIM115 - lives as long as the rows
        offset = self._written if place is None else place
        self._file.seek(offset)
        self._file.write(data)
        if place is None:
            self._written += len(data)
            self._shelf.disk_bytes -= len(data)
        return offset

    def _read(self, kept: _Kept) -> list[torch.Tensor]:
        if self._file is None:
            raise RuntimeError("a row is on disk, but there is no file")
        self._file.seek(kept.offset)
        data, parts, offset = bytearray(self._file.read(kept.payload_bytes)), [], 0
        for layout in kept.layouts:
            piece = bytearray(data[offset : offset + layout.payload_bytes])
            parts.append(torch.frombuffer(piece, dtype=layout.dtype).reshape(layout.shape))
            offset += layout.payload_bytes
        return parts
