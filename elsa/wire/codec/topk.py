"""The largest values of each token, with their places."""

from collections.abc import Sequence

import torch

from elsa.errors import MalformedError
from elsa.wire.tensor import Layout


class TopKStage:
    """Keeps the `kept` values of a token that are largest in magnitude, in order of their columns; others become 0.

    Places travel as a bitmap where that is not longer than the numbers of the columns. Its gradient is
    straight-through: what is left out is for the sender to add to later values (error feedback).
    """

    def __init__(self, width: int, kept: int) -> None:
        self.text = f"topk(kept={kept})"
        self.columns = kept
        self._width = width
        self._places: _Bitmap | _Numbers = (
            _Bitmap(width, kept) if (width + 7) // 8 <= 4 * kept else _Numbers(width, kept)
        )

    def side_layout(self, tokens: int) -> list[Layout]:
        """Bitmap, uint8 (tokens, width / 8 rounded up), or numbers of columns, int32 (tokens, kept)."""
        return [self._places.layout(tokens)]

    def narrow(self, values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The values kept, and their places."""
        # What is not finite counts as largest, so that it is kept and then refused.
        sizes = values.abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
        places = sizes.topk(self.columns, dim=1, sorted=False).indices.sort(dim=1).values
        return values.gather(1, places), [self._places.packed(places)]

    def widen(self, values: torch.Tensor, side: Sequence[torch.Tensor]) -> torch.Tensor:
        """The values at their places among zeros. Raises MalformedError for places that `narrow` never gives."""
        return values.new_zeros(len(values), self._width).scatter_(1, self._places.unpacked(side[0]), values)

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """`gradient` itself."""
        return gradient


class _Bitmap:
    """Column i is bit i mod 8, counted from the lowest, of byte i / 8; bits beyond the width are 0."""

    def __init__(self, width: int, kept: int) -> None:
        self._width, self._kept, self._bytes = width, kept, (width + 7) // 8
        self._bits = torch.arange(8, dtype=torch.uint8)

    def layout(self, tokens: int) -> Layout:
        return Layout(dtype=torch.uint8, shape=(tokens, self._bytes))

    def packed(self, places: torch.Tensor) -> torch.Tensor:
        bits = torch.zeros(len(places), 8 * self._bytes, dtype=torch.uint8).scatter_(1, places, 1)
        return (bits.view(len(places), -1, 8) << self._bits).sum(2, dtype=torch.uint8)

    def unpacked(self, side: torch.Tensor) -> torch.Tensor:
        bits = ((side.unsqueeze(2) >> self._bits) & 1).view(len(side), -1)
        if bool((bits.sum(1) != self._kept).any()) or bool(bits[:, self._width :].any()):
            raise MalformedError(f"places: a token has not {self._kept} bits set among {self._width} columns")
        return bits.nonzero()[:, 1].view(-1, self._kept)


class _Numbers:
    """Numbers of columns from 0, rising."""

    def __init__(self, width: int, kept: int) -> None:
        self._width, self._kept = width, kept

    def layout(self, tokens: int) -> Layout:
        return Layout(dtype=torch.int32, shape=(tokens, self._kept))

    def packed(self, places: torch.Tensor) -> torch.Tensor:
        return places.to(torch.int32)

    def unpacked(self, side: torch.Tensor) -> torch.Tensor:
        places = side.long()
        inside = bool(((places >= 0) & (places < self._width)).all())
        if not inside or bool((places[:, 1:] <= places[:, :-1]).any()):
            raise MalformedError(f"places: a token's are not rising numbers of columns below {self._width}")
        return places
