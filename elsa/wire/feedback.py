"""Error feedback: what a codec leaves out of a row's gradient is added to the same row's next one.

So nothing is lost for good: the sum of what arrived of a row stays within one message of the sum of what was sent
(Stich, Cordonnier, Jaggi, arXiv 1809.07599, there for the gradient of parameters).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch

MOST_BYTES = 1 << 26
"""Room for what was left out; the rows seen longest ago are forgotten first."""


class Feedback:
    """What was left out of each row, by its number."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._left: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def added(self, values: torch.Tensor, rows: Sequence[tuple[int, int]]) -> torch.Tensor:
        """`values` (tokens, width) of rows (number, tokens) with what was left out of them before."""
        pieces = torch.split(values, [tokens for _, tokens in rows])
        return torch.cat([self._with(number, piece) for (number, _), piece in zip(rows, pieces, strict=True)])

    def keep(self, left_out: torch.Tensor, rows: Sequence[tuple[int, int]]) -> None:
        """Remember what (tokens, width) was left out of the rows this time."""
        for (number, _), piece in zip(rows, torch.split(left_out, [tokens for _, tokens in rows]), strict=True):
            self._take(number)
            self._left[number] = piece.clone()  # a slice would hold its whole batch
            self._bytes += piece.nbytes
        while self._bytes > self._most_bytes:
            self._bytes -= self._left.popitem(last=False)[1].nbytes

    def _with(self, number: int, piece: torch.Tensor) -> torch.Tensor:
        """`piece` with what was left out of the row; nothing is, if the row had another number of tokens then."""
        left = self._take(number)
        return piece if left is None or left.shape != piece.shape else piece + left

    def _take(self, number: int) -> torch.Tensor | None:
        left = self._left.pop(number, None)
        if left is not None:
            self._bytes -= left.nbytes
        return left
