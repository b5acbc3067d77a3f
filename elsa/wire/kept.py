"""Rows that an end of a stream keeps, so that they need not travel again: in memory up to a bound, then on disk.

What is on disk lies in a file without a name, which goes with the process. One thread at a time.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from elsa.wire.codec.base import Codec
from elsa.wire.tensor import Layout, raw_bytes

log = logging.getLogger(__name__)


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
    """Rows by number, each as the parts of a codec. `clear` gives the room back."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._rows: dict[int, _Kept] = {}
        self._file: IO[bytes] | None = None
        self._written = 0
        self._places: dict[int, list[int]] = {}  # in the file, of rows that are kept no more, by their size
        self._closed = False

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, row: int) -> int:
        """Tokens of a row that is kept."""
        return self._rows[row].layouts[0].shape[0]

    def put(self, row: int, parts: Sequence[torch.Tensor], codec: Codec) -> bool:
        """Keep a row in place of what was kept of it; False if there is no room, and then nothing is kept of it."""
        self.drop(row)
        if self._closed:
            return False
        layouts = [Layout(dtype=part.dtype, shape=tuple(part.shape)) for part in parts]
        payload_bytes = sum(layout.payload_bytes for layout in layouts)
        if payload_bytes <= self._shelf.memory_bytes:
            self._shelf.memory_bytes -= payload_bytes
            kept = [part.clone() for part in parts]  # a slice would hold its whole batch
            self._rows[row] = _Kept(codec=codec, layouts=layouts, payload_bytes=payload_bytes, parts=kept)
            return True
        offset = self._write(b"".join(map(raw_bytes, parts)))
        if offset is None:
            return False
        self._rows[row] = _Kept(codec=codec, layouts=layouts, payload_bytes=payload_bytes, parts=None, offset=offset)
        return True

    def get(self, row: int) -> tuple[Codec, Sequence[torch.Tensor]]:
        """The codec and the parts of a row that is kept."""
        kept = self._rows[row]
        return kept.codec, self._read(kept) if kept.parts is None else kept.parts

    def drop(self, row: int) -> None:
        """Keep a row no more. Its place on disk is for another of its size; the shelf has it back with `clear`."""
        kept = self._rows.pop(row, None)
        if kept is None:
            return
        if kept.parts is None:
            self._places.setdefault(kept.payload_bytes, []).append(kept.offset)
        else:
            self._shelf.memory_bytes += kept.payload_bytes

    def clear(self) -> None:
        """Keep nothing any more."""
        for row in list(self._rows):
            self.drop(row)
        self._shelf.disk_bytes += self._written
        self._written = 0
        self._places.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Keep nothing any more, whatever is put."""
        self._closed = True
        self.clear()

    def _write(self, data: bytes) -> int | None:
        """Where in the file `data` stands now; None if the shelf or the disk has no room for it."""
        free = self._places.get(len(data))
        if not free and len(data) > self._shelf.disk_bytes:
            return None
        offset = free.pop() if free else self._written
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._shelf.folder)  # noqa: SIM115 - lives as the rows do
            self._file.seek(offset)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            log.warning("a row is not kept: %s", error)
            return None
        if offset == self._written:
            self._written += len(data)
            self._shelf.disk_bytes -= len(data)
        return offset

    def _read(self, kept: _Kept) -> list[torch.Tensor]:
        if self._file is None:
            raise RuntimeError("a row is on disk, but there is no file")
        self._file.seek(kept.offset)
        parts = []
        for layout in kept.layouts:
            piece = bytearray(self._file.read(layout.payload_bytes))
            parts.append(torch.frombuffer(piece, dtype=layout.dtype).reshape(layout.shape))
        return parts
