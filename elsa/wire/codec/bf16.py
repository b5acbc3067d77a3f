"""Rounding to bfloat16: half the bytes of float32, relative error at most 2^-8."""

from collections.abc import Sequence

import torch

from elsa.wire.tensor import Layout


class Bfloat16Codec:
    """Rounds to nearest even; 2 bytes an element. Its gradient is straight-through: that of the identity."""

    name = "bf16"

    def layout(self, tokens: int, width: int) -> list[Layout]:
        """One bfloat16 tensor (tokens, width)."""
        return [Layout(dtype=torch.bfloat16, shape=(tokens, width))]

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` rounded."""
        return [values.to(torch.bfloat16)]

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The part widened to float32, exactly."""
        return parts[0].to(torch.float32)

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """`gradient` itself: rounding has a zero or undefined derivative, training needs the identity's."""
        return gradient
