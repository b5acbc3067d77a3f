"""Weights on disk, each contents under the SHA-256 of its bytes, shared by a machine's clients and by their runs.

    contents/ab/ab12…   whole, and compared with its digest before it got this name
    partial/ab12…       what has come of one that is on its way; outlives the process, so that it can go on
    leases/…/           of one process and run: `held` lists what it uses, `model` has its configuration and tokenizer
    lock                held by whoever takes or ends a lease, or evicts
    files, tensors      held by the one client of the machine that receives such

A lease (`services.client.lease`) is alive as long as its process holds the lock on the lease's own `lock` file. Where
there is no room, contents that no living lease holds go, the least recently used first.
"""

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from elsa.errors import InputError

MIB = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cache:
    """The cache in `folder`, for at most `most_bytes` bytes. Raises InputError if nothing can be written there."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        with self.usable():
            for name in ("contents", "partial", "leases"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            with self.locked():
                pass

    def content(self, sha256: str) -> Path:
        """Where whole contents are, if they are there."""
        return self.folder / "contents" / sha256[:2] / sha256

    def partial(self, sha256: str) -> Path:
        """Where what has come of contents is, if anything has."""
        return self.folder / "partial" / sha256

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Within it, a disk that is full or cannot be used raises InputError: waiting alone does not help."""
        try:
            yield
        except OSError as error:
            place, why = f"cache {self.folder}", error.strerror or str(error)
            if error.errno in _FULL:
                raise InputError(f"{place} is full ({why}); free some space, or set cache to another disk") from error
            raise InputError(f"{place} cannot be used ({why}); set cache to a folder that can be written") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it, no other process takes or ends a lease, or evicts."""
        with (self.folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def receiving(self, kind: Literal["files", "tensors"]) -> Iterator[bool]:
        """Whether this client is the one that receives such, for the time of the context; False if another one does.

        Small files have a turn of their own, so that who joins need not wait for another's weights.
        """
        with self.usable(), (self.folder / kind).open("ab") as file:
            yield lock_at_once(file)

    def make_room(self) -> None:
        """Remove what is not held, the least recently used first, until all that is held has room; within `locked`.

        Raises InputError if that is not enough.
        """
        held = self._held()
        needed = sum(held.values())
        if needed > self._most_bytes:
            raise InputError(
                f"cache {self.folder} may hold {self._most_bytes / MIB:.1f} MiB, and what this machine's runs use is "
                f"{needed / MIB:.1f} MiB; raise max_cache_mib"
            )
        loose = [(file, file.stat()) for file in self._files() if file.name not in held]
        total = needed + sum(status.st_size for _, status in loose)
        for file, status in sorted(loose, key=lambda each: each[1].st_mtime):
            if total <= self._most_bytes:
                return
            file.unlink()
            total -= status.st_size

    def _held(self) -> dict[str, int]:
        """Size of each contents that a living lease holds, by digest; dead leases are removed."""
        held: dict[str, int] = {}
        for lease in (self.folder / "leases").iterdir():
            if _is_dead(lease):
                shutil.rmtree(lease, ignore_errors=True)
                continue
            for line in (lease / "held").read_text().splitlines():
                sha256, size = line.split()
                held[sha256] = int(size)
        return held

    def _files(self) -> list[Path]:
        return [file for part in ("contents/*/*", "partial/*") for file in self.folder.glob(part)]


def lock_at_once(file: BinaryIO) -> bool:
    """Lock a file until it is closed; False if another process, or another opening of it, has it locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_dead(lease: Path) -> bool:
    """Whether the process that took a lease is gone."""
    try:
        with (lease / "lock").open("rb") as file:
            return lock_at_once(file)
    except FileNotFoundError:
        return True
