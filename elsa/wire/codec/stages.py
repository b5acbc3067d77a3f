"""What a pipeline is made of: stages that narrow a token's values, one that rounds what is left.

Every tensor that a stage lays out has a row for each token, so that whoever holds encoded tokens may cut rows out of
them and join them again.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import torch

from elsa.wire.codec.moments import Moments
from elsa.wire.tensor import Layout


class Rounding(Protocol):
    """Turns (tokens, columns) float32 into what travels, in fewer bits. Its gradient is straight-through."""

    text: str
    """The expression that names it."""

    def layout(self, tokens: int) -> list[Layout]:
        """Types and shapes of what `encode` gives for `tokens` rows."""

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` (tokens, columns), finite float32, as the tensors that travel."""

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """(tokens, columns) float32 again. Raises MalformedError for parts that `encode` never gives."""


class Narrowing(Protocol):
    """Turns (tokens, width) float32 into (tokens, columns) float32 and the tensors that tell where they belong."""

    text: str
    """The expression that names it, with whole numbers."""

    columns: int
    """Values of a token that are left."""

    def side_layout(self, tokens: int) -> list[Layout]:
        """Types and shapes of the tensors that travel beside the columns for `tokens` rows."""

    def narrow(self, values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`values` (tokens, width) as (tokens, columns), and the tensors of `side_layout`."""

    def widen(self, values: torch.Tensor, side: Sequence[torch.Tensor]) -> torch.Tensor:
        """(tokens, columns) as (tokens, width) again. Raises MalformedError for a side that `narrow` never gives."""

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient by the values narrowed, given the one by the values widened; both (tokens, width)."""


class Calibrated(Narrowing, Protocol):
    """A narrowing stage that first needs tensors which its sender makes from what it has seen."""

    def calibration_layout(self) -> list[Layout]:
        """Types and shapes of those tensors."""

    def fit(self, moments: Moments) -> list[torch.Tensor]:
        """Those tensors for values of these moments. Raises NotFiniteError for moments that are not finite."""

    def calibrated(self, tensors: Sequence[torch.Tensor]) -> Self:
        """This stage under them. Raises MalformedError for tensors of another layout or that are not finite."""
