"""The seam that every codec fits: packed activations in, tensors for the wire out, and back.

Both sides build the same codec from the same `CodecSpec`, agreed when a stream opens. A codec knows the exact
layout of what it sends, so that a receiver can refuse anything else before it reads it.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from elsa.wire.tensor import Layout


class Codec(Protocol):
    """Encodes a (tokens, width) float32 tensor."""

    name: str

    def layout(self, tokens: int, width: int) -> list[Layout]:
        """Types and shapes of what `encode` gives for a (tokens, width) tensor."""

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` (tokens, width) float32, as the tensors that travel."""

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """What `encode` gave, as (tokens, width) float32 again."""

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient by `values`, given the one by `decode(encode(values))`; both (tokens, width)."""
