"""Adapters' bytes, kept under their own SHA-256 at an fsspec URL: a folder, or a bucket.

A blob is written aside and renamed, so that it is there whole or not at all, and checked whenever it is read.
"""

import hashlib
import os
import uuid

import fsspec
from fsspec.implementations.local import LocalFileSystem

from elsa.errors import ChecksumError, InputError, NotFoundError


class Blobs:
    """Blobs below `url`. Calls block: use them in a thread. Raises InputError if the URL cannot be used."""

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._aside, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"cannot keep blobs at {url} ({error}); check ELSA_BLOBS_URL") from error

    def put(self, data: bytes) -> str:
        """Keep `data`; its SHA-256, lower-case hexadecimal. Nothing is written if it is there already."""
        digest = hashlib.sha256(data).hexdigest()
        place = self._place(digest)
        if not self._files.exists(place):
            aside = f"{self._aside}/{uuid.uuid4().hex}"
            self._write(aside, data)
            self._files.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
            self._files.mv(aside, place)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of a digest. Raises NotFoundError, and ChecksumError if they have changed since."""
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

    def _place(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _write(self, place: str, data: bytes) -> None:
        with self._files.open(place, "wb") as file:
            file.write(data)
            if isinstance(self._files, LocalFileSystem):  # on the disk before it gets its name
                file.flush()
                os.fsync(file.fileno())
