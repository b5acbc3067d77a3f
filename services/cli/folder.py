"""A PEFT folder as it comes from the cloud: received, checked, written aside and put in place whole."""

import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from elsa.errors import CheckpointError, InputError, MalformedError
from elsa.model.export import load_folder, put_in_place
from elsa.v1 import run_pb2 as pb
from elsa.wire.chunks import Assembler

MAX_FILE_BYTES = 2 << 30
MAX_FILES = 64
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MARKS = ("adapter_config.json", "elsa.json")


def receive_folder(messages: Iterable[pb.ExportAdapterResponse], folder: Path) -> None:
    """Write the files of an export to `folder`; an earlier export there is replaced.

    Raises:
        InputError: if the place is taken by something else, or cannot be written.
        MalformedError, ChecksumError: for a broken stream; nothing is written then.
        CheckpointError: if what came is no adapter folder; nothing is written then.
    """
    check_place(folder)
    mark = uuid.uuid4().hex[:8]
    aside, old = (folder.with_name(f".{folder.name}.{mark}.{what}") for what in ("new", "old"))
    try:
        aside.mkdir(parents=True)
        _write_files(messages, aside)
        load_folder(aside)
        put_in_place(aside, folder, old)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror}); choose another --to") from error
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(aside), "that came from the cloud")) from error
    finally:
        for rest in (aside, old):
            shutil.rmtree(rest, ignore_errors=True)


def check_place(folder: Path) -> None:
    """Raise InputError unless `folder` is absent, empty, or an earlier export."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not all((folder / name).is_file() for name in _MARKS):
        raise InputError(f"{folder} exists and is no exported adapter; choose another --to, or remove it")


def _write_files(messages: Iterable[pb.ExportAdapterResponse], aside: Path) -> None:
    pieces: Assembler | None = None
    path, files = aside, 0
    for message in messages:
        if message.WhichOneof("message") == "file":
            if pieces is not None:
                raise MalformedError(f"ExportAdapterResponse.file: began before {path.name} had ended")
            files += 1
            path, pieces = aside / _checked(message.file, files), Assembler(message.file.total_bytes, "chunk")
        elif pieces is None:
            raise MalformedError("ExportAdapterResponse.chunk: came before any file")
        elif pieces.add(message.chunk):
            path.write_bytes(pieces.result())
            pieces = None
    if pieces is not None or not files:
        raise MalformedError("ExportAdapterResponse: ended before its last file was whole; ask again")


def _checked(header: pb.FileHeader, files: int) -> str:
    if not _FILE_NAME.fullmatch(header.name):
        raise MalformedError(f"FileHeader.name: {header.name!r} is no plain file name")
    if header.total_bytes > MAX_FILE_BYTES or files > MAX_FILES:
        raise MalformedError(f"FileHeader: file {files}, {header.total_bytes} bytes: more than an adapter folder has")
    return header.name
