"""Reads the rows of a site's data set: the door through which every text and label enters a client.

The readers of JSON Lines and CSV are our own, so that a fault names the file and the line. `elsa.data.examples`
makes examples of what comes out.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from elsa.data.corpus import corpus
from elsa.errors import DataError

Row = Mapping[str, object]
NumberedRow = tuple[int, Row]


def read_rows(source: str) -> Iterator[NumberedRow]:
    """The rows of `source`, each with the number by which a person finds it.

    `source` is a file ending in .jsonl, .json (lines or one array), .csv (UTF-8, with a header), each also
    with .gz, or .parquet; `hf:NAME[:SPLIT]`, a Hugging Face data set or a local folder of one (split train
    when none is given), its class numbers as names; or `builtin`, the corpus of `elsa.data.corpus`. The number
    is the line in a file of lines, the row counted from 1 otherwise. Rows are read as they are asked for.

    Raises:
        DataError: an unknown suffix or a missing file, at once; a fault inside a file, when it is reached.
    """
    if source == "builtin":
        return enumerate(corpus(), start=1)
    if source.startswith("hf:"):
        return _hugging_face(source)
    return _reader(source)(Path(source))


def check_source(source: str) -> None:
    """Raise DataError if `source` is a file that is not there or of an unknown kind; nothing is read of it."""
    if source != "builtin" and not source.startswith("hf:"):
        _reader(source)


def _reader(source: str) -> Callable[[Path], Iterator[NumberedRow]]:
    path = Path(source)
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    read = readers.get(suffixes.removesuffix(".gz"))
    if read is None or suffixes == ".parquet.gz":
        raise DataError(
            f"{source}: unknown kind of data; give a file ending in .jsonl, .json or .csv (also with .gz) "
            "or .parquet, or hf:NAME[:SPLIT], or builtin"
        )
    if not path.is_file():
        raise DataError(f"{source}: no such file; check the path")
    return read


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, numbered from 1, ends included, without a byte order mark."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}, after line {number}: broken gzip ({error}); copy the file again or unpack it"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}, after line {number}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def _json_lines(path: Path) -> Iterator[NumberedRow]:
    for number, line in _lines(path):
        if line.strip():
            yield number, _row(_parsed(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json(path: Path) -> Iterator[NumberedRow]:
    """One array of objects, or JSON Lines under the name .json, told apart by the first character."""
    first = next((line for _, line in _lines(path) if line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from _json_lines(path)
        return
    items = _parsed("".join(line for _, line in _lines(path)), str(path))
    for number, item in enumerate(items if isinstance(items, list) else [items], start=1):
        yield number, _row(item, f"{path}, row {number}")


def _parsed(text: str, place: str) -> object:
    try:
        return json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if "\n" in text.strip() else place
        raise DataError(
            f"{where}, column {error.colno}: invalid JSON ({error.msg}); write one JSON object a line"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{place}: JSON that cannot be read ({error}); nest it less, shorten its numbers") from error


def _row(value: object, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f'{place}: a row must be a JSON object, got {type(value).__name__}; write {{"text": ...}}')
    return value


def _csv(path: Path) -> Iterator[NumberedRow]:
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    columns: list[str] = []
    try:
        for fields in reader:
            if not fields:
                continue
            if not columns:
                columns = _header(fields, path)
                continue
            if len(fields) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields under {len(columns)} columns; "
                    "put fields that hold commas or line ends in double quotes"
                )
            yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: invalid CSV ({error}); check its quotes, or convert it to .jsonl"
        ) from error


def _header(fields: list[str], path: Path) -> list[str]:
    columns = [field.strip() for field in fields]
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}, line 1: a column name stands twice in {columns}; rename one of them")
    return columns


def _parquet(path: Path) -> Iterator[NumberedRow]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install 'elsa[train]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for table in file.iter_batches(batch_size=1024):
                for row in table.to_pylist():
                    number += 1
                    yield number, row
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}, after row {number}: broken Parquet ({_one_line(error)}); copy or write the file again"
        ) from error


def _hugging_face(source: str) -> Iterator[NumberedRow]:
    name, _, split = source.removeprefix("hf:").partition(":")
    if not name:
        raise DataError(f"{source!r}: no data set is named; write hf:NAME or hf:NAME:SPLIT")
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{source}: needs the datasets library; pip install 'elsa[train]'") from error
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"{source}: cannot be loaded ({_one_line(error)}); check the name, the split and the network, "
            "or give a local file"
        ) from error
    names = {column: kind.names for column, kind in rows.features.items() if hasattr(kind, "names")}
    return enumerate((_named(row, names) for row in rows), start=1)


def _named(row: Row, names: Mapping[str, list[str]]) -> Row:
    """The row with class numbers as names, since the run's order of labels need not be the data set's."""
    known = {
        column: classes[number]
        for column, classes in names.items()
        if isinstance(number := row[column], int) and 0 <= number < len(classes)
    }
    return {**row, **known}


def _one_line(error: BaseException) -> str:
    """An error's text on one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
