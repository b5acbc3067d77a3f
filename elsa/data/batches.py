"""Deals encoded rows out in batches of tensors: the last step before the bottom segment.

Rows are padded on the right, to the longest row of their batch or micro-batch and no further; the attention mask
alone says what is padding, since some tokenizers (GPT-2) pad with the end-of-text token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elsa.data.encoding import NO_LOSS, EncodedData
from elsa.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows of one optimizer step, or of a part of it."""

    input_ids: Tensor  # (batch, tokens) int64
    attention_mask: Tensor  # (batch, tokens) int64, 1 at tokens, 0 at padding
    token_type_ids: Tensor | None  # (batch, tokens) int64, where the tokenizer has them
    labels: Tensor  # int64; classification (batch,); causal-lm (batch, tokens), NO_LOSS at prompt and padding
    rows: tuple[int, ...] = ()  # (batch,) numbers of the rows in their data; empty where they have none

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, without padding."""
        return [int(length) for length in self.attention_mask.sum(dim=1)]

    def split(self, parts: int) -> list["Batch"]:
        """Micro-batches in row order, sizes within one of each other, each trimmed to its own longest row.

        There are `parts` of them, or one a row where there are fewer rows; none is empty.

        Raises:
            DataError: parts < 1.
        """
        if parts < 1:
            raise DataError(f"a batch cannot be split into {parts} parts; set training.micro_batches to 1 or more")
        sizes = [len(part) for part in np.array_split(np.arange(len(self)), min(parts, len(self)))]
        stops = np.cumsum(sizes).tolist()
        return [self.take(range(stop - size, stop)) for size, stop in zip(sizes, stops, strict=True)]

    def take(self, places: Sequence[int]) -> "Batch":
        """The rows at these places of the batch, at least one, trimmed to the longest of them."""
        index = torch.tensor(places)
        tokens = int(self.attention_mask[index].sum(dim=1).max())
        types = self.token_type_ids
        return Batch(
            input_ids=self.input_ids[index, :tokens],
            attention_mask=self.attention_mask[index, :tokens],
            token_type_ids=None if types is None else types[index, :tokens],
            labels=self.labels[index, :tokens] if self.labels.dim() == 2 else self.labels[index],
            rows=tuple(self.rows[place] for place in places) if self.rows else (),
        )


def collate(data: EncodedData, indices: Sequence[int]) -> Batch:
    """The rows of `data` at `indices`, in that order, padded on the right to the longest of them."""
    rows = [data.rows[index] for index in indices]
    classes = [row.labels for row in rows if isinstance(row.labels, int)]
    targets = [row.labels for row in rows if not isinstance(row.labels, int)]
    return Batch(
        input_ids=_padded([row.ids for row in rows], data.pad_id),
        attention_mask=_padded([[1] * len(row.ids) for row in rows], 0),
        token_type_ids=_padded([row.types for row in rows], 0) if rows[0].types else None,
        labels=_padded(targets, NO_LOSS) if targets else torch.tensor(classes, dtype=torch.int64),
        rows=tuple(indices),
    )


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """(rows, longest) int64."""
    tokens = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (tokens - len(row))] for row in rows], dtype=torch.int64)


def batches(data: EncodedData, batch: int, steps: int, seed: Sequence[int]) -> Iterator[Batch]:
    """Exactly `steps` training batches of `batch` rows, or of all rows where there are fewer.

    Epochs are reshuffled and follow each other without a gap, so that after any number of batches no row has been
    used more than once oftener than another; no batch holds a row twice.

    Args:
        seed: non-negative integers, such as the run's seed, the client's index and the round; the same ones give
            the same batches on any machine.
    """
    for indices in _shuffled(len(data), min(batch, len(data)), steps, seed):
        yield collate(data, indices)


def _shuffled(rows: int, batch: int, steps: int, seed: Sequence[int]) -> Iterator[list[int]]:
    rng = np.random.default_rng(list(seed))
    queue: list[int] = []
    for _ in range(steps):
        if len(queue) < batch:
            epoch = rng.permutation(rows).tolist()
            held = set(queue)  # rows of the old epoch that open this batch come last in the new one
            queue += [row for row in epoch if row not in held] + [row for row in epoch if row in held]
        yield queue[:batch]
        queue = queue[batch:]


def sequential(data: EncodedData, batch: int) -> Iterator[Batch]:
    """Every row once, in the order of `data`, the last batch smaller; for evaluation and prediction.

    `data.by_length()` as the argument pads least, where the order does not matter.
    """
    for start in range(0, len(data), batch):
        yield collate(data, range(start, min(start + batch, len(data))))
