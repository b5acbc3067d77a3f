"""What one run of one process uses of a machine's cache: which contents are there, which are on their way."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from elsa.errors import ChecksumError, InputError
from services.client.cache import MIB, Cache, lock_at_once

_PIECE_BYTES = 1 << 20


class Lease:
    """Keeps what it holds from being evicted until it is closed. For one thread at a time.

    Its methods raise InputError as `Cache.usable` does.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._folder = cache.folder / "leases" / uuid.uuid4().hex
        self._held: dict[str, int] = {}
        self._good: set[str] = set()
        with cache.usable(), cache.locked():
            self._folder.mkdir()
            self._write_held({})
            self._lock = (self._folder / "lock").open("ab")
            lock_at_once(self._lock)

    def hold(self, contents: Mapping[str, int]) -> None:
        """Use these contents, whose sizes are given by digest, and no others; make room for those that are not there.

        Raises InputError with the figures where the cache, or its disk, has too little.
        """
        with self.cache.usable(), self.cache.locked():
            self._write_held(contents)
            try:
                self.cache.make_room()
                self._check_disk(contents)
            except InputError:
                self._write_held(self._held)
                raise
            self._held = dict(contents)
            for sha256 in contents:
                with suppress(FileNotFoundError):
                    os.utime(self.cache.content(sha256))  # by which the least recently used are known

    def missing(self) -> dict[str, int]:
        """By digest, how much has come of what is held and not there whole; what has changed since is removed.

        Only while this client receives, or before anybody does: see `Cache.receiving`.
        """
        with self.cache.usable():
            return {sha256: self._arrived(sha256) for sha256 in self._held if not self._is_good(sha256)}

    @contextmanager
    def receive(self, sha256: str) -> Iterator[BinaryIO]:
        """A file to append to what has come of contents; at the end of the context they are whole, or it raises.

        Raises ChecksumError if they have another digest; they are thrown away then.
        """
        with self.cache.usable():
            with self.cache.partial(sha256).open("ab") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._keep(sha256)

    def folder_of(self, files: Mapping[str, str]) -> Path:
        """A folder of this lease's own with these files alone, each name given with its digest; all must be there."""
        folder = self._folder / "model"
        with self.cache.usable():
            shutil.rmtree(folder, ignore_errors=True)  # of another edge, that did not answer to the end
            folder.mkdir()
            for name, sha256 in files.items():
                shutil.copyfile(self.cache.content(sha256), folder / name)
        return folder

    def close(self) -> None:
        """Use nothing any more."""
        with suppress(OSError), self.cache.locked():
            self._lock.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _is_good(self, sha256: str) -> bool:
        """Whether contents are there whole; compared with their digest once.

        Whoever finds them changed when it reads them removes them.
        """
        place = self.cache.content(sha256)
        if not place.exists():
            self._good.discard(sha256)
        if sha256 not in self._good and place.exists():
            if _sha256(place) == sha256:
                self._good.add(sha256)
            else:
                place.unlink(missing_ok=True)
        return sha256 in self._good

    def _arrived(self, sha256: str) -> int:
        """Bytes of partial contents; 0, and nothing of them any more, where they are too many."""
        place = self.cache.partial(sha256)
        arrived = place.stat().st_size if place.exists() else 0
        if arrived and arrived >= self._held[sha256]:
            place.unlink(missing_ok=True)
            return 0
        return arrived

    def _keep(self, sha256: str) -> None:
        partial, content = self.cache.partial(sha256), self.cache.content(sha256)
        if _sha256(partial) != sha256:
            partial.unlink()
            raise ChecksumError(f"contents {sha256} came with another digest; they are to be sent again")
        content.parent.mkdir(exist_ok=True)
        partial.replace(content)
        self._good.add(sha256)

    def _write_held(self, contents: Mapping[str, int]) -> None:
        aside = self._folder / "held.aside"
        aside.write_text("".join(f"{sha256} {size}\n" for sha256, size in contents.items()))
        aside.replace(self._folder / "held")

    def _check_disk(self, contents: Mapping[str, int]) -> None:
        needed = sum(size for sha256, size in contents.items() if not self.cache.content(sha256).exists())
        partial = [self.cache.partial(sha256) for sha256 in contents]
        needed -= sum(place.stat().st_size for place in partial if place.exists())
        free = shutil.disk_usage(self.cache.folder).free
        if needed > free:
            raise InputError(
                f"cache {self.cache.folder} needs {needed / MIB:.1f} MiB and its disk has {free / MIB:.1f} MiB free; "
                "free some, or set cache to another disk"
            )


def _sha256(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            total.update(piece)
    return total.hexdigest()
