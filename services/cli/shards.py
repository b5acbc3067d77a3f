"""One data set shared out to files, a client each, and a file of rows that nobody trains on."""

import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elsa.data.examples import split_holdout
from elsa.data.partition import Indices, by_column, dirichlet, iid
from elsa.data.source import Row, read_rows
from elsa.data.write import write_jsonl
from elsa.errors import DataError

TEST = "test.jsonl"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How rows are shared out: by a column's values, or skewed by label with `alpha`, or else alike."""

    parts: int
    alpha: float | None = None
    groups: int | None = None
    """With `alpha`: so many groups are unlike each other, and their parts, dealt to them in turn, alike."""
    by: str | None = None
    label: str = "label"
    holdout: float = 0.0
    """Share of the rows, in [0, 1), that goes to the test file and to no client."""
    seed: int = 0
    min_rows: int = 1
    """Fewest rows of a part, where rows are shared out skewed or alike."""


def file_name(part: int) -> str:
    """Name of a part's file, counted from 1."""
    return f"client-{part}.jsonl"


def share_out(rows: Sequence[Row], plan: Plan) -> dict[str, list[Row]]:
    """The rows of each file by its name; each row is in exactly one. Raises DataError."""
    if not rows:
        raise DataError("the data set holds no rows; give one with at least a row a part")
    training, test = (list(rows), []) if not plan.holdout else split_holdout(rows, plan.holdout, plan.seed)
    if plan.by is not None:
        parts = by_column(_column(training, plan.by, "--by"), plan.parts)
    elif plan.alpha is not None:
        parts = _skewed(_column(training, plan.label, "--label"), plan, plan.alpha)
    else:
        parts = iid(len(training), plan.parts, plan.seed)
    files = {file_name(part): [training[row] for row in held] for part, held in enumerate(parts, start=1)}
    return files | ({TEST: test} if plan.holdout else {})


def read_all(source: str) -> list[Row]:
    """All rows of a source. Raises DataError as `elsa.data.source.read_rows`."""
    return [row for _, row in read_rows(source)]


def write_folder(folder: Path, files: Mapping[str, Sequence[Row]]) -> None:
    """Write the files to a new or empty folder, all of them or none. Raises DataError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; choose another --to, or remove it")
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        aside.mkdir(parents=True)
        for name, rows in files.items():
            write_jsonl(aside / name, rows)
        if folder.is_dir():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}); choose another --to") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def label_shares(rows: Sequence[Row], label: str) -> dict[str, float]:
    """Share of each label among the rows that have one, most frequent first."""
    counts = Counter(str(row[label]) for row in rows if label in row)
    return {name: count / counts.total() for name, count in counts.most_common()}


def _skewed(labels: Sequence[str], plan: Plan, alpha: float) -> list[Indices]:
    if plan.groups is None:
        return dirichlet(labels, plan.parts, alpha, plan.seed, plan.min_rows)
    most = -(-plan.parts // plan.groups)  # parts of a group
    groups = dirichlet(labels, plan.groups, alpha, plan.seed, most * plan.min_rows)
    parts: dict[int, Indices] = {}
    for number, rows in enumerate(groups):
        members = range(number, plan.parts, plan.groups)
        shares = iid(len(rows), len(members), plan.seed)
        parts |= {member: rows[share] for member, share in zip(members, shares, strict=True)}
    return [parts[member] for member in range(plan.parts)]


def _column(rows: Sequence[Row], column: str, flag: str) -> list[str]:
    missing = next((number for number, row in enumerate(rows, start=1) if column not in row), None)
    if missing is not None:
        names = ", ".join(map(repr, rows[missing - 1])) or "none"
        raise DataError(f"no column {column!r}, which {flag} names, in a row whose columns are {names}; name another")
    return [str(row[column]) for row in rows]
