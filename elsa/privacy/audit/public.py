"""What anyone can compute: states that the pretrained bottom gives to any tokens, and statistics of public text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from elsa.errors import InputError
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import Split, Task
from elsa.train.packing import mask_of, pack

ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Special tokens that a tokenizer puts before and after every text."""

    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> "Frame":
        """What stands around a text that is one word."""
        bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        framed: list[int] = tokenizer("a")["input_ids"]
        start = next((at for at in range(len(framed)) if framed[at : at + len(bare)] == bare), 0)
        return cls(begin=tuple(framed[:start]), end=tuple(framed[start + len(bare) :]))


class PublicBottom:
    """The pretrained embeddings and bottom blocks, before any training, and public text.

    Args:
        segment: holds the ends and the bottom blocks; no adapter, or one that is still the identity.
        split: the cut.
        frame: special tokens of each text.
        text: token numbers of public texts, special tokens included; at least one.
    """

    def __init__(self, segment: Segment, split: Split, *, frame: Frame, text: Sequence[Sequence[int]]) -> None:
        if not text:
            raise InputError("the audit's attacks need public text; give at least one sentence")
        self.segment = segment
        self.split = split
        self.frame = frame
        self.text = tuple(tuple(row) for row in text)
        self.vocabulary = int(segment.config.vocab_size)

    @classmethod
    def open(
        cls, checkpoint: Checkpoint, split: Split, sentences: Sequence[str], *, task: Task, max_tokens: int = 128
    ) -> "PublicBottom":
        """From a checkpoint and plain sentences, of which at most `max_tokens` tokens are kept."""
        segment = Segment.client(checkpoint, split, task=task, num_labels=2 if task == "classification" else 0)
        tokenizer = checkpoint.tokenizer()
        ids = tokenizer(list(sentences), truncation=True, max_length=max_tokens)["input_ids"] if sentences else []
        return cls(segment, split, frame=Frame.of(tokenizer), text=[row for row in ids if row])

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """h1 of rows of token numbers (special tokens included), (tokens, width) float32, row after row.

        Rows are run shortest first, so that little is padded, and given back in their order.
        """
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        self.segment.train(False)
        for start in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            for row, states in zip(chosen, self._batch([rows[row] for row in chosen]), strict=True):
                found[row] = states
        return torch.cat(found)

    @cached_property
    def text_states(self) -> torch.Tensor:
        """(tokens, width): states of the public text."""
        return self.states(self.text)

    @cached_property
    def text_ids(self) -> torch.Tensor:
        """(tokens,): tokens of the public text."""
        return torch.tensor([token for row in self.text for token in row])

    @cached_property
    def text_lengths(self) -> tuple[int, ...]:
        """Tokens of each public text."""
        return tuple(len(row) for row in self.text)

    @cached_property
    def alone(self) -> torch.Tensor:
        """(vocabulary, width): the state of every token as the only one of its text."""
        frame = self.frame
        at, width = len(frame.begin), len(frame.begin) + 1 + len(frame.end)
        rows = [(*frame.begin, token, *frame.end) for token in range(self.vocabulary)]
        parts = [self.states(rows[start : start + 8192]) for start in range(0, len(rows), 8192)]
        return torch.cat([part.reshape(-1, width, part.shape[-1])[:, at].clone() for part in parts])

    def _batch(self, rows: Sequence[Sequence[int]]) -> Sequence[torch.Tensor]:
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        hidden = self.segment.bottom(ids, mask_of(lengths), split=self.split)
        return torch.split(pack(hidden, lengths).float(), lengths)
