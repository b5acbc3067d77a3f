"""The scale that the values of a token are divided by before they are rounded to whole numbers.

A scale travels as bfloat16: it takes the 2 bytes of a half-precision one but has the range of float32, and gradients
are often so small that half precision would round their scale to nothing. Values are divided by the scale as it
travels, so its rounding adds no error of its own.
"""

import torch

from elsa.errors import MalformedError
from elsa.wire.tensor import Layout

SMALLEST = 2.0**-120
LARGEST = 2.0**120


def scale_layout(tokens: int) -> Layout:
    """One bfloat16 scale a token."""
    return Layout(dtype=torch.bfloat16, shape=(tokens,))


def as_scale(values: torch.Tensor) -> torch.Tensor:
    """`values` (tokens,) as scales: bfloat16, their magnitude between 2^-120 and 2^120, their sign kept (0: plus)."""
    bounded = values.abs().clamp(SMALLEST, LARGEST)
    return torch.where(values < 0, -bounded, bounded).to(torch.bfloat16)


def checked_scales(scales: torch.Tensor) -> torch.Tensor:
    """Scales that came in, (tokens, 1) float32. Raises MalformedError for one out of bounds."""
    wide = scales.float().unsqueeze(1)
    sizes = wide.abs()
    if not bool(((sizes >= SMALLEST) & (sizes <= LARGEST)).all()):
        raise MalformedError("scales: one is not between 2^-120 and 2^120 in magnitude")
    return wide
