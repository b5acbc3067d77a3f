"""Where a picture goes (`--plot`): checked before any work, written whole or not at all."""

import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from elsa.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120


def check_picture(path: Path) -> None:
    """Raise InputError unless a PNG can be drawn and written at `path`."""
    if path.suffix.lower() != ".png":
        raise InputError(f"--plot {path}: pictures are PNG; end the name with .png")
    check_file("--plot", path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("--plot needs matplotlib; install elsa with its extra 'train', or use --json") from error


def check_file(flag: str, path: Path) -> None:
    """Raise InputError, naming the flag, unless a file can be written at `path`."""
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise InputError(f"{flag} {path}: exists and is no file that may be written; choose another")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be written ({error.strerror}); choose another folder") from error


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a PNG that appears whole. Raises InputError if it cannot be written."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        figure.savefig(aside, format="png", dpi=DPI)
        aside.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another --plot") from error
    finally:
        aside.unlink(missing_ok=True)
