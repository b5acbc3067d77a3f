"""Writes rows as JSON Lines, whole or not at all: shards for clients, the cached corpus."""

import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from elsa.errors import DataError


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write `rows` to `path`, one JSON object a line, and return their number.

    The file is written aside and renamed, so a reader sees the old one or the new one, never a part; missing
    folders are made. When `rows` raises, the old file stays and nothing is left aside.

    Raises:
        DataError: a name that `read_rows` would not read back, a row that JSON cannot hold, or a folder that
            cannot be written.
    """
    if path.suffix != ".jsonl":
        raise DataError(f"{path}: rows are written as JSON Lines; give a name that ends in .jsonl")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.aside")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = _write(aside, path, rows)
        aside.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); check the folder's permissions and free space"
        ) from error
    finally:
        if aside.exists():
            aside.unlink()
    return count


def _write(aside: Path, path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    count = 0
    with aside.open("w", encoding="utf-8") as file:
        for row in rows:
            count += 1
            try:
                file.write(json.dumps(dict(row), ensure_ascii=False) + "\n")
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{path}, row {count}: not writable as JSON ({error}); keep text, numbers and lists of them"
                ) from error
    return count
