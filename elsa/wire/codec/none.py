"""The codec that changes nothing: float32 as it is."""

from collections.abc import Sequence

import torch

from elsa.wire.tensor import Layout


class NoneCodec:
    """Sends float32; exact, 4 bytes an element."""

    name = "none"

    def layout(self, tokens: int, width: int) -> list[Layout]:
        """One float32 tensor (tokens, width)."""
        return [Layout(dtype=torch.float32, shape=(tokens, width))]

    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` itself."""
        return [values]

    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The one part itself."""
        return parts[0]

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """`gradient` itself."""
        return gradient
