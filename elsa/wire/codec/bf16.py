"""Rounding to bfloat16: half the bytes of float32, relative error at most 2^-8."""

from collections.abc import Sequence

import torch

from elsa.errors import NotFiniteError
from elsa.wire.codec.finite import all_finite
from elsa.wire.tensor import Layout


class Bfloat16Rounding:
    """Rounds to nearest even; 2 bytes a value. Its gradient is straight-through: that of the identity."""

    text = "bf16"

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def layout(self, tokens: int) -> list[Layout]:
        """One bfloat16 tensor (tokens, columns)."""
        return [Layout(dtype=torch.bfloat16, shape=(tokens, self._columns))]

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` rounded. Raises NotFiniteError for one too large for bfloat16, which is 3.39e38."""
        rounded = values.to(torch.bfloat16)
        if not all_finite(rounded):
            raise NotFiniteError("holds a value above 3.39e38, the largest of bfloat16")
        return [rounded]

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The part widened to float32, exactly."""
        return parts[0].to(torch.float32)
