"""Makes examples of rows, by the columns that a run names, and counts every row that it cannot use.

Comes after `elsa.data.source`; `elsa.data.batches` tokenises what comes out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from elsa.data.source import NumberedRow, Row
from elsa.errors import DataError
from elsa.spec import DataSpec, Task

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A row of classification: a text, or a pair of texts, and the index of its label in `DataSpec.labels`."""

    text: str
    pair: str | None = None
    label: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A row of causal language modelling: a prompt without loss ('' for plain text) and what follows it."""

    prompt: str = ""
    response: str


Example = Labelled | Completion


@dataclass(frozen=True, kw_only=True)
class RowReport:
    """What became of the rows: `rows == used + no_text + unknown_label + too_long_dropped`."""

    rows: int = 0
    used: int = 0
    no_text: int = 0
    unknown_label: int = 0
    first_unknown: str = ""  # the first unknown label and its row, for people
    too_long_cut: int = 0  # among the used
    too_long_dropped: int = 0

    def __str__(self) -> str:
        first = f" (first: {self.first_unknown})" if self.first_unknown else ""
        counts = (
            (self.no_text, "without text"),
            (self.unknown_label, f"with unknown label{first}"),
            (self.too_long_dropped, "dropped as too long"),
            (self.too_long_cut, "of the used cut as too long"),
        )
        told = [f"{self.used} used", *(f"{count} {what}" for count, what in counts if count)]
        return f"{self.rows} rows: {', '.join(told)}"


def read_examples(
    rows: Iterable[NumberedRow], data: DataSpec, task: Task, origin: str = "data"
) -> tuple[list[Example], RowReport]:
    """The examples in `rows`, in their order, and the count of what could not be used.

    A label may be a name of `data.labels`, or its number there as an integer or digits; where any label name is
    itself a number, labels are names only. Numbers serve as text; blank text counts as none. A prompt may be blank.

    Raises:
        DataError: a named column that no row has, no rows at all, or none that can be used.
    """
    wanted = _columns(data, task)
    seen: dict[str, None] = {}
    examples: list[Example] = []
    report = RowReport()
    for number, row in rows:
        seen.update(dict.fromkeys(row))
        example, report = _take(number, row, data, task, replace(report, rows=report.rows + 1))
        if example is not None:
            examples.append(example)
    if not report.rows:
        raise DataError(f"{origin}: holds no rows; give a data set with at least two")
    for field, column in wanted.items():
        if column not in seen:
            raise DataError(
                f"{origin}: no column {column!r}, which data.{field} names; the columns are "
                f"{', '.join(map(repr, seen)) or 'none'}"
            )
    if not examples:
        raise DataError(f"{origin}: no row can be used ({report}); check data.labels and the columns")
    return examples, report


def _columns(data: DataSpec, task: Task) -> dict[str, str]:
    """The columns that must be there, by the field of the spec that names them."""
    if task == "classification":
        return {"text": data.text, "label": data.label} | ({"pair": data.pair} if data.pair else {})
    if data.prompt is not None and data.response is not None:
        return {"prompt": data.prompt, "response": data.response}
    return {"text": data.text}


def _take(number: int, row: Row, data: DataSpec, task: Task, report: RowReport) -> tuple[Example | None, RowReport]:
    """One row's example, or None, and the report with it counted."""
    used = replace(report, used=report.used + 1)
    no_text = replace(report, no_text=report.no_text + 1)
    if task == "causal-lm":
        response = _text(row, data.text if data.response is None else data.response)
        prompt = "" if data.prompt is None else _text(row, data.prompt)
        return (Completion(prompt=prompt, response=response), used) if response else (None, no_text)
    text, pair = _text(row, data.text), None if data.pair is None else _text(row, data.pair)
    if not text or pair == "":
        return None, no_text
    label = label_index(row.get(data.label), data.labels)
    if label is None:
        first = report.first_unknown or f"{row.get(data.label)!r:.40}, row {number}"
        return None, replace(report, unknown_label=report.unknown_label + 1, first_unknown=first)
    return Labelled(text=text, pair=pair, label=label), used


def _text(row: Mapping[str, object], column: str) -> str:
    """A cell as text; '' for blank, missing or anything but text and numbers."""
    value = row.get(column)
    text = str(value) if isinstance(value, str | int | float) and value == value else ""
    return text if text.strip() else ""


def label_index(value: object, labels: Sequence[str]) -> int | None:
    """The index that a cell means among `labels`, by name or by number; None when it means none of them."""
    name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    if name in labels:
        return labels.index(name)
    if any(label.isdecimal() for label in labels) or not isinstance(value, str | int | float):
        return None
    digits = str(int(value)) if isinstance(value, bool) else name
    index = int(digits) if digits.isdecimal() else -1
    return index if 0 <= index < len(labels) else None


def split_holdout(examples: Sequence[Item], share: float, seed: int | Sequence[int]) -> tuple[list[Item], list[Item]]:
    """Rows to train on and rows kept back, each in the order given; the same for the same seed on any machine.

    `share` in (0, 1) is the part kept back, rounded, but at least one row and never all.

    Raises:
        DataError: fewer than two rows.
    """
    if len(examples) < 2:
        raise DataError(
            f"{len(examples)} usable row(s) cannot be split into training and held-out rows; at least 2 are needed"
        )
    count = min(max(round(len(examples) * share), 1), len(examples) - 1)
    order = np.random.default_rng(seed).permutation(len(examples))
    kept_back = set(order[:count].tolist())
    train = [item for index, item in enumerate(examples) if index not in kept_back]
    return train, [examples[index] for index in sorted(kept_back)]
