"""Activation reuse: what a client sends of rows whose h1 the edge has had before, and how the edge joins it.

Where the bottom has nothing to train a row's h1 never changes: it travels once, and later epochs name it. Where it
has, a row's h1 moves slowly: its difference to what the edge holds travels, or nothing if it moved too little.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from elsa.errors import MalformedError
from elsa.wire.codec.base import Codec
from elsa.wire.codec.registry import codec_of
from elsa.wire.kept import KeptRows


class Form(Enum):
    """What travels of a row."""

    WHOLE = "whole"
    CHANGE = "change"
    KEPT = "kept"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a micro-batch: its number at the client, its tokens, and what travels of it."""

    number: int
    tokens: int
    form: Form


class ClientRows:
    """What a client knows of the rows that its edge keeps.

    Args:
        frozen: the bottom has nothing to train.
        threshold: a row that moved by less than this share of its norm is not sent.
        kept: where the client holds, unless frozen, what the edge holds; beyond its room rows travel whole.
    """

    def __init__(self, *, frozen: bool, threshold: float, kept: KeptRows) -> None:
        self.frozen = frozen
        self._threshold = threshold
        self._kept = kept
        self._numbers: set[int] = set()

    def forget(self) -> None:
        """The edge keeps nothing of us, or h1 is another's now."""
        self._numbers.clear()
        self._kept.clear()

    def drop(self, numbers: Collection[int]) -> None:
        """It is not known what the edge holds of these rows: they go whole next time."""
        self._numbers.difference_update(numbers)
        for number in numbers:
            self._kept.drop(number)

    def is_missing(self, number: int) -> bool:
        """Whether the row's activations are needed at all."""
        return not (self.frozen and number in self._numbers)

    def plan(self, numbers: Sequence[int], lengths: Sequence[int], values: torch.Tensor) -> tuple[Row, ...]:
        """What to send of each row; `values` (tokens, width) holds the rows that are missing, in order."""
        rows, begin = [], 0
        for number, tokens in zip(numbers, lengths, strict=True):
            if not self.is_missing(number):
                rows.append(Row(number=number, tokens=tokens, form=Form.KEPT))
                continue
            form = self._form(number, values[begin : begin + tokens])
            rows.append(Row(number=number, tokens=tokens, form=form))
            begin += tokens
        return tuple(rows)

    def changes(self, rows: Sequence[Row], values: torch.Tensor) -> torch.Tensor:
        """Differences (tokens, width) of the rows of that form to what the edge holds; `values` are theirs."""
        held = [self._held(row.number) for row in rows if row.form is Form.CHANGE]
        return values - torch.cat(held)

    def confirmed(self, row: Row, arrived: torch.Tensor | None, kept: bool) -> None:
        """The edge has taken a row that was sent.

        Args:
            arrived: what the edge decoded of it, (tokens, width); None if frozen.
            kept: whether it keeps the row.
        """
        if self.frozen and kept:
            self._numbers.add(row.number)
        elif not self.frozen and arrived is not None:
            before = self._held(row.number) if row.form is Form.CHANGE else 0.0
            if not (kept and self._kept.put(row.number, [arrived + before], codec_of((), arrived.shape[1]))):
                self._kept.drop(row.number)

    def _form(self, number: int, values: torch.Tensor) -> Form:
        if self.frozen or number not in self._kept:
            return Form.WHOLE
        moved = (values - self._held(number)).norm()
        return Form.KEPT if moved < self._threshold * values.norm() else Form.CHANGE

    def _held(self, number: int) -> torch.Tensor:
        return self._kept.get(number)[1][0]


class EdgeRows:
    """The rows that an edge keeps of one client in one run."""

    def __init__(self, kept: KeptRows, width: int, *, frozen: bool) -> None:
        self._kept = kept
        self._frozen = frozen
        self._float = codec_of((), width)

    def clear(self) -> None:
        """Keep nothing of what came so far."""
        self._kept.clear()

    def close(self) -> None:
        """Keep nothing any more, whatever comes."""
        self._kept.close()

    def check(self, rows: Sequence[Row]) -> None:
        """Raise MalformedError for a row that is not kept as its form says."""
        for index, row in enumerate(rows):
            field = f"forward.rows[{index}]"
            if row.form is Form.CHANGE and self._frozen:
                raise MalformedError(f"{field}: a change, but the run's bottom does not change")
            if row.form is Form.WHOLE:
                continue
            if row.number not in self._kept:
                raise MalformedError(f"{field}: row {row.number} is not kept here; send it whole")
            if self._kept.tokens(row.number) != row.tokens:
                raise MalformedError(
                    f"{field}: row {row.number} has {self._kept.tokens(row.number)} tokens here, {row.tokens} there"
                )

    def join(
        self,
        rows: Sequence[Row],
        whole: tuple[Codec, Sequence[torch.Tensor]] | None,
        changes: torch.Tensor | None,
    ) -> tuple[torch.Tensor, bool]:
        """h1 (tokens, width) of all `rows`, which were checked, and whether those that were sent are kept.

        Args:
            whole: codec and parts of the rows sent whole, joined.
            changes: (tokens, width) of the rows sent as changes, joined.
        """
        pieces, kept = self._whole(rows, whole)
        pieces |= self._known(rows)
        kept &= self._add_changes(rows, changes, pieces)
        return torch.cat([pieces[row.number] for row in rows]), kept

    def _whole(
        self, rows: Sequence[Row], whole: tuple[Codec, Sequence[torch.Tensor]] | None
    ) -> tuple[dict[int, torch.Tensor], bool]:
        if whole is None:
            return {}, True
        codec, parts = whole
        sent = [row for row in rows if row.form is Form.WHOLE]
        sizes = [row.tokens for row in sent]
        values = dict(zip((row.number for row in sent), torch.split(codec.decode(parts), sizes), strict=True))
        cut = list(zip(*(torch.split(part, sizes) for part in parts), strict=True))
        kept = True
        for row, own in zip(sent, cut, strict=True):
            if self._frozen:
                kept &= self._kept.put(row.number, own, codec)
            else:
                kept &= self._kept.put(row.number, [values[row.number]], self._float)
        return values, kept

    def _known(self, rows: Sequence[Row]) -> dict[int, torch.Tensor]:
        """What is kept of the rows not sent whole, decoded codec by codec."""
        groups: dict[int, list[int]] = {}
        held = {row.number: self._kept.get(row.number) for row in rows if row.form is not Form.WHOLE}
        for number, (codec, _) in held.items():
            groups.setdefault(id(codec), []).append(number)
        values: dict[int, torch.Tensor] = {}
        for numbers in groups.values():
            codec = held[numbers[0]][0]
            parts = [torch.cat(each) for each in zip(*(held[number][1] for number in numbers), strict=True)]
            sizes = [len(held[number][1][0]) for number in numbers]
            values |= dict(zip(numbers, torch.split(codec.decode(parts), sizes), strict=True))
        return values

    def _add_changes(
        self, rows: Sequence[Row], changes: torch.Tensor | None, pieces: dict[int, torch.Tensor]
    ) -> bool:
        changed = [row for row in rows if row.form is Form.CHANGE]
        if changes is None:
            return True
        kept = True
        for row, change in zip(changed, torch.split(changes, [row.tokens for row in changed]), strict=True):
            pieces[row.number] = pieces[row.number] + change
            kept &= self._kept.put(row.number, [pieces[row.number]], self._float)
        return kept
