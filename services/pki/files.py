"""Files of keys and certificates: read with a bound, written aside and renamed, a key never over another file."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elsa.errors import InputError

MOST_BYTES = 1 << 20
PUBLIC = 0o644
PRIVATE = 0o600
FOLDER = 0o700


def read(path: Path, what: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a file that should be `what`, at most so many. Raises InputError."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {what}") from error
    if len(data) > most_bytes:
        raise InputError(f"{path}: more than {most_bytes} bytes; give {what}")
    return data


def replace(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a file that is there whole or not at all, in place of an earlier one. Raises InputError."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_key(path: Path, pem: bytes) -> None:
    """Write a private key that its owner alone may read. Raises InputError where a file is already.

    The place is taken first, by an empty file that nobody else can have made, and the key renamed to it.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
    except FileExistsError as error:
        raise InputError(f"{path}: exists, and no key is written over a file; choose another place for it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        replace(path, pem, PRIVATE)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, no other process changes what an authority keeps in `folder`. Raises InputError."""
    try:
        file = os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE), "rb")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); let who signs write there") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
