"""Rounding to 8 bits a value with one scale a token."""

from collections.abc import Sequence

import torch

from elsa.wire.codec.scales import as_scale, checked_scales, scale_layout
from elsa.wire.tensor import Layout


class Int8Rounding:
    """A value is its whole number, -127 to 127, times its token's scale, the largest magnitude / 127.

    The error is at most half a scale, and a scale is at most 2^-8 larger than said: 0.4 % of the token's largest
    magnitude. Its gradient is straight-through: that of the identity.
    """

    text = "int8"

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def layout(self, tokens: int) -> list[Layout]:
        """Scales, bfloat16 (tokens,); whole numbers, int8 (tokens, columns)."""
        return [scale_layout(tokens), Layout(dtype=torch.int8, shape=(tokens, self._columns))]

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` / scale, rounded to nearest even."""
        scales = as_scale(values.abs().amax(1) / 127)
        codes = (values / scales.float().unsqueeze(1)).round_().clamp_(-127, 127)
        return [scales, codes.to(torch.int8)]

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Whole numbers times scale. Raises MalformedError for a scale out of bounds."""
        return parts[1].float().mul_(checked_scales(parts[0]))
