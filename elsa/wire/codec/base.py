"""The seam that every codec fits: packed activations in, tensors for the wire out, and back.

Both sides build the same codec from the same `CodecSpec`, agreed when a stream opens. A codec knows the exact
layout of what it sends, so that a receiver can refuse anything else before it reads it. One that is calibrated holds
tensors that its sender made from what it has seen; they travel once, before the first values that need them.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import torch

from elsa.wire.codec.moments import Moments
from elsa.wire.tensor import Layout


class Codec(Protocol):
    """Encodes a (tokens, width) float32 tensor. Values never change an instance: senders and threads may share it."""

    text: str
    """The expression that names it, with whole numbers: `subspace(k=96) | int4`. Equal for equal wire specs only."""

    leaves_out: bool
    """Whether it drops values that their sender should add to the row's next ones."""

    def calibration_layout(self) -> list[Layout]:
        """Types and shapes of its calibration's tensors, half precision; none where it takes no calibration."""

    def fit(self, moments: Moments) -> list[torch.Tensor]:
        """A calibration for values of these moments. Raises NotFiniteError for moments that are not finite."""

    def calibrated(self, tensors: Sequence[torch.Tensor]) -> Self:
        """This codec under a calibration. Raises MalformedError for one of another layout or that is not finite."""

    def plain(self) -> "Codec":
        """What stands in for it while there is no calibration: int8 for one that is calibrated, else itself."""

    def layout(self, tokens: int) -> list[Layout]:
        """Types and shapes of what `encode` gives for a (tokens, width) tensor; each part has `tokens` rows."""

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` (tokens, width) float32, as the tensors that travel. Raises NotFiniteError for NaN or infinity."""

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """What `encode` gave, as (tokens, width) float32 again. Raises MalformedError for what it never gives."""

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient by `values`, given the one by `decode(encode(values))`; both (tokens, width)."""
