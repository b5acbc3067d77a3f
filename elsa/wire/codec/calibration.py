"""What travels of a calibration: half-precision tensors, checked when they come in."""

from collections.abc import Sequence

import torch

from elsa.errors import MalformedError, NotFiniteError
from elsa.wire.codec.moments import Moments
from elsa.wire.tensor import Layout

LARGEST_HALF = torch.finfo(torch.float16).max


def half(values: torch.Tensor) -> torch.Tensor:
    """`values` in half precision, larger ones clipped: the sender computes with what travels, so no error follows."""
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).to(torch.float16)


def finite_moments(moments: Moments) -> Moments:
    """`moments` themselves. Raises NotFiniteError if they took NaN or infinity."""
    if not bool(torch.isfinite(moments.covariance.diagonal()).all()):
        raise NotFiniteError("the moments that a codec is calibrated from hold NaN or infinity")
    return moments


def checked(tensors: Sequence[torch.Tensor], layouts: Sequence[Layout], name: str) -> list[torch.Tensor]:
    """`tensors` in float32. Raises MalformedError for another number, type or shape than `layouts`, or not finite."""
    if len(tensors) != len(layouts):
        raise MalformedError(f"{name}: a calibration of {len(tensors)} tensors, expected {len(layouts)}")
    for index, (tensor, layout) in enumerate(zip(tensors, layouts, strict=True)):
        if tensor.dtype != layout.dtype or tuple(tensor.shape) != layout.shape:
            raise MalformedError(
                f"{name}: calibration[{index}] is {tensor.dtype} {list(tensor.shape)}, "
                f"expected {layout.dtype} {list(layout.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise MalformedError(f"{name}: calibration[{index}] holds NaN or infinity")
    return [tensor.float() for tensor in tensors]
