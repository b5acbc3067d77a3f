"""A site's rows: read, as token numbers, and in batches. They never leave."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numpy_client.words import Words

Row = tuple[list[int], int]
"""Token numbers and the number of the label."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows padded on the right: ids and mask (rows, tokens), labels (rows,)."""

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @property
    def lengths(self) -> list[int]:
        """Real tokens of each row."""
        return [int(length) for length in self.mask.sum(1)]


def read(path: Path, spec: Mapping[str, Any], words: Words) -> list[Row]:
    """The rows of a JSONL file whose label the specification names. Raises ValueError if there is none.

    So it does for a line that is no object with a text and a label.
    """
    data, most = spec["data"], spec["model"]["max_tokens"]
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    fields = {data["text"], data["label"]}
    if not all(isinstance(line, dict) and fields <= line.keys() for line in lines):
        raise ValueError(f"{path.name} has a line without the fields {' and '.join(sorted(fields))}")
    rows = [
        (words.numbers(line[data["text"]], most), data["labels"].index(line[data["label"]]))
        for line in lines
        if line[data["label"]] in data["labels"]
    ]
    if not rows:
        raise ValueError(f"none of {len(lines)} rows has one of the labels {', '.join(data['labels'])}")
    return rows


def parted(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and the share that is kept back for evaluation."""
    order = np.random.default_rng(seed).permutation(len(rows))
    kept = max(round(len(rows) * share), 1)
    return [rows[place] for place in order[kept:]], [rows[place] for place in order[:kept]]


def batch(rows: Sequence[Row]) -> Batch:
    """The rows in one batch."""
    ids = np.zeros((len(rows), max(len(numbers) for numbers, _ in rows)), np.int64)
    mask = np.zeros(ids.shape, np.bool_)
    for place, (numbers, _) in enumerate(rows):
        ids[place, : len(numbers)], mask[place, : len(numbers)] = numbers, True
    return Batch(ids=ids, mask=mask, labels=np.array([label for _, label in rows]))


def shuffled(rows: Sequence[Row], size: int, steps: int, seed: Sequence[int]) -> Iterator[list[Row]]:
    """`steps` times `size` rows, or all where there are fewer; none again before all had their turn."""
    draw, queue = np.random.default_rng(list(seed)), list[int]()
    for _ in range(steps):
        if len(queue) < min(size, len(rows)):
            queue = draw.permutation(len(rows)).tolist()
        yield [rows[place] for place in queue[:size]]
        queue = queue[size:]
