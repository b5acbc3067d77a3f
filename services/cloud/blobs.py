"""Adapters' bytes, kept under their own SHA-256 at an fsspec URL: a folder, or a bucket.

A blob is written aside and renamed, so that it is there whole or not at all, and checked whenever it is read.
"""

import errno
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import fsspec
from fsspec.implementations.local import LocalFileSystem

from elsa.errors import ChecksumError, FullDiskError, InputError, NotFoundError, UnreachableError, first_line
from elsa.parsing import masked

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk says that has no room, for anybody or for us."""


@contextmanager
def room() -> Iterator[None]:
    """What finds a full disk raises FullDiskError within it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise FullDiskError(f"the cloud's disk is full: {error.strerror}; free some and try again") from error
        raise


@contextmanager
def _passing(done: str) -> Iterator[None]:
    """Within it, what a disk or bucket says is UnreachableError, as it may pass; but a full disk keeps its own."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        log.warning("a blob cannot be %s: %s", done, error)
        reason = error.strerror or type(error).__name__
        raise UnreachableError(f"the cloud's blobs cannot be {done} ({reason}); try again") from error


class Blobs:
    """Blobs below `url`. Calls block: use them in a thread. Raises InputError if the URL cannot be used."""

    def __init__(self, url: str) -> None:
        self._writing: set[str] = set()
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._aside, exist_ok=True)
        except ImportError as error:
            raise InputError(
                f"cannot keep blobs at {masked(url)} ({first_line(error)}); a bucket needs its package for fsspec, "
                "as s3fs, gcsfs or adlfs, where the cloud runs"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot keep blobs at {masked(url)} ({masked(first_line(error))}); check ELSA_BLOBS_URL"
            ) from error

    def claim(self, owner: str, *, new: bool) -> None:
        """Make these the blobs of one installation, which alone sweeps them. InputError if they are another's.

        Args:
            new: the installation has put no blobs anywhere yet. Else it has to be named here: where it is not is
                another folder, or a disk that is not mounted.
        """
        place = f"{self._root}/owner"
        if not self._files.exists(place):
            if not new:
                raise InputError(
                    f"{self._root} has no blobs of this database, which has put some; mount their disk or restore "
                    "them with their file `owner`, or set ELSA_BLOBS_URL to where they are"
                )
            self._write_aside(place, owner.encode())
        elif self._files.cat_file(place).decode(errors="replace").strip() != owner:
            raise InputError(
                f"the blobs at {self._root} belong to another database; set ELSA_BLOBS_URL to a place of this one's "
                "own, or ELSA_DATABASE_URL to their database"
            )

    def free_bytes(self) -> int | None:
        """What is free where they are kept; None where that cannot be told, as of a bucket."""
        if not isinstance(self._files, LocalFileSystem):
            return None
        return shutil.disk_usage(self._root).free

    def names(self, prefix: str) -> list[str]:
        """The digests that begin with two hexadecimal digits, of those that are there."""
        return sorted(self._in(f"{self._root}/{prefix}"))

    def age_s(self, digest: str, now: float) -> float:
        """Seconds since a blob was written, at `now`, unix seconds; 0 if it is not there."""
        return self._age_s(self._place(digest), now)

    def sweep_aside(self, grace_s: float, now: float) -> int:
        """Remove what was written aside longer ago than `grace_s` seconds and never got its name; how many went."""
        found = self._in(self._aside)
        left = [
            path for name, path in found.items() if self._age_s(path, now) > grace_s and name not in self._writing
        ]
        return sum(map(self._went, left))

    def has(self, digest: str) -> bool:
        """Whether the bytes of a digest are there, whatever they are."""
        return bool(self._files.exists(self._place(digest)))

    def put(self, data: bytes) -> str:
        """Keep `data`; its SHA-256, lower-case hexadecimal. Nothing is written if it is there already.

        Raises OSError of a full disk, with the figures, and UnreachableError for what else a disk or bucket says;
        nothing is left of it then.
        """
        digest = hashlib.sha256(data).hexdigest()
        place = self._place(digest)
        with _passing("kept"):
            if not self._files.exists(place):
                self._write_aside(place, data)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of a digest.

        Raises NotFoundError, ChecksumError if they have changed since, UnreachableError if they cannot be read now.
        """
        with _passing("read"):
            try:
                data: bytes = self._files.cat_file(self._place(digest))
            except FileNotFoundError as error:
                raise NotFoundError(f"blob {digest} is gone from {self._root}; restore it from a backup") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ChecksumError(f"blob {digest} in {self._root} has changed; restore it from a backup")
        return data

    def delete(self, digest: str) -> None:
        """Forget the bytes of a digest, if they are there."""
        try:
            self._files.rm_file(self._place(digest))
        except FileNotFoundError:
            return

    @property
    def _aside(self) -> str:
        return f"{self._root}/aside"

    def _in(self, folder: str) -> dict[str, str]:
        """The paths of what is in a folder, by their last names; of nothing in one that is not there.

        A bucket has no empty folders.
        """
        try:
            return {path.rsplit("/", 1)[1]: path for path in self._files.ls(folder, detail=False)}
        except FileNotFoundError:
            return {}

    def _went(self, path: str) -> bool:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("%s was never finished but stays: %s", path, error)
            return False
        return True

    def _place(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _age_s(self, path: str, now: float) -> float:
        try:
            return now - float(self._files.modified(path).timestamp())
        except FileNotFoundError:
            return 0.0

    def _write_aside(self, place: str, data: bytes) -> None:
        name = uuid.uuid4().hex
        aside = f"{self._aside}/{name}"
        self._writing.add(name)
        try:
            self._write(aside, data)
            folder = place.rsplit("/", 1)[0]
            self._files.makedirs(folder, exist_ok=True)
            self._files.mv(aside, place)
            self._force_names(folder, self._root)
        except OSError as error:
            with suppress(OSError):
                self._files.rm_file(aside)
            if error.errno in FULL:
                figures = f"{len(data)} bytes are needed, {self.free_bytes()} are free"
                raise OSError(error.errno, figures, self._root) from error
            raise
        finally:
            self._writing.discard(name)

    def _force_names(self, *folders: str) -> None:
        """Have the names in local folders on the disk, which a rename alone does not."""
        for folder in folders if isinstance(self._files, LocalFileSystem) else ():
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)

    def _write(self, place: str, data: bytes) -> None:
        with self._files.open(place, "wb") as file:
            file.write(data)
            if isinstance(self._files, LocalFileSystem):  # on the disk before it gets its name
                file.flush()
                os.fsync(file.fileno())
