"""What travels of one micro-batch's activations, and how values that are not finite are refused on both sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from elsa.errors import NotFiniteError
from elsa.privacy.ssop import Turn
from elsa.train.reuse import Row
from elsa.wire.exchange import Encoded

TurnOf = Callable[[int], Turn]
"""The secret turn of a step."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """The activations of a micro-batch on their way up.

    Without `rows` all rows are sent whole and none is kept. `whole` and `changes` are None where no row is sent so.
    """

    lengths: Sequence[int]
    rows: Sequence[Row] = ()
    whole: Encoded | None = None
    changes: Encoded | None = None


def check_finite(values: torch.Tensor, what: str) -> torch.Tensor:
    """`values`; raises NotFiniteError saying `what` they are."""
    if not bool(torch.isfinite(values).all()):
        raise NotFiniteError(f"{what} holds NaN or infinity; lower training.optimizer.learning_rate")
    return values
