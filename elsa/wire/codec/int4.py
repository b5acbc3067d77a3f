"""Rounding to 4 bits a value with one scale a token, two values a byte."""

from collections.abc import Sequence

import torch

from elsa.errors import MalformedError
from elsa.wire.codec.scales import as_scale, checked_scales, scale_layout
from elsa.wire.codec.sizes import needs_even
from elsa.wire.tensor import Layout

REACH = 0.9
"""Share of a token's largest magnitude that the numbers reach; the rest is clipped, which lowers the mean error."""


class Int4Rounding:
    """A value is its whole number, -8 to 7, times its token's scale.

    The scale is -0.9 / 8 times the value of largest magnitude: its sign puts that value on the longer side of the
    numbers. The error is at most 5.7 % of the largest magnitude where nothing is clipped and 21.5 % where something
    is; on Gaussian values of 48 to 400 columns, 9.6 % to 10.7 % of their root mean square. Its gradient is
    straight-through: that of the identity.
    """

    text = "int4"

    def __init__(self, columns: int) -> None:
        if fault := needs_even(columns):
            raise MalformedError(fault)
        self._columns = columns

    def layout(self, tokens: int) -> list[Layout]:
        """Scales, bfloat16 (tokens,); pairs of whole numbers, uint8 (tokens, columns / 2)."""
        return [scale_layout(tokens), Layout(dtype=torch.uint8, shape=(tokens, self._columns // 2))]

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` / scale, rounded to nearest even, plus 8; of two neighbours the first is the low half."""
        smallest, largest = values.aminmax(dim=1)
        scales = as_scale(torch.where(largest >= -smallest, largest, smallest) * (-REACH / 8))
        codes = (values / scales.float().unsqueeze(1)).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
        pairs = codes.view(torch.int16)  # first neighbour in the low byte, as on every little-endian machine
        return [scales, (pairs | (pairs >> 4)).to(torch.uint8)]

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Whole numbers times scale. Raises MalformedError for a scale out of bounds."""
        scales, pairs = checked_scales(parts[0]), parts[1]
        codes = torch.stack((pairs & 15, pairs >> 4), dim=2).reshape(len(pairs), self._columns)
        return codes.float().sub_(8).mul_(scales)
