"""The rounding that changes nothing: float32 as it is."""

from collections.abc import Sequence

import torch

from elsa.wire.tensor import Layout


class NoneRounding:
    """Sends float32; exact, 4 bytes a value."""

    text = "none"

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def layout(self, tokens: int) -> list[Layout]:
        """One float32 tensor (tokens, columns)."""
        return [Layout(dtype=torch.float32, shape=(tokens, self._columns))]

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` itself."""
        return [values]

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The one part itself."""
        return parts[0]
