"""How frozen weights are held: as bfloat16 or int8 between products, float32 only for the time of one.

Modules keep their places and names, and stay kinds of `nn.Linear`, `Conv1D` and `nn.Embedding`, so PEFT puts its
factors on them as ever. What comes in and goes out of them is float32. Norms, biases and whatever is trained stay
float32 altogether.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding
from transformers.pytorch_utils import Conv1D

from elsa.errors import CheckpointError
from elsa.model.skeleton import Skeleton
from elsa.model.stand_in import place
from elsa.spec import BaseDtype

_PIECE_BYTES = 1 << 23
"""As much of a weight is float32 at once, or one row: the head of a language model is as large as many blocks."""
_MOST = 127
_LEAST = torch.finfo(torch.float32).tiny
"""Of a scale: below it float32 loses precision, and what is divided by 0 is nothing."""


class HeldLinear(nn.Linear):
    """An `nn.Linear` whose weight (out, in) is held; with int8 a `scale` (out, 1) turns its rows to float32."""

    held_type: torch.dtype
    scale: torch.Tensor | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """States (..., in) to (..., out), float32."""
        return _product(input, self.weight, self.scale, self.bias)


class HeldConv1D(Conv1D):
    """A `Conv1D`, which keeps its weight as (in, out), whose weight is held; `scale` is (out, 1) here too."""

    held_type: torch.dtype
    scale: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """States (..., in) to (..., out), float32."""
        return _product(x, self.weight.t(), self.scale, self.bias)


class HeldEmbedding(nn.Embedding):
    """An `nn.Embedding` whose table is held; times `embed_scale` where the family has one."""

    held_type: torch.dtype

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Numbers (...) to rows (..., width), float32."""
        rows = embedding(input, self.weight).float()
        scale = getattr(self, "embed_scale", None)
        return rows if scale is None else rows * scale


def hold_as(bones: Skeleton, base: BaseDtype, trained: tuple[str, ...]) -> None:
    """Make the modules of a skeleton such as hold their weights as `base`; those at the paths `trained` stay.

    With int8 the embeddings, the head and a pooler, which lie outside the blocks, are bfloat16: a head may be the
    embeddings' own table, which has no rows of outputs.
    """
    if base == "float32":
        return
    inside = f"{bones.architecture.blocks}."
    for path, module in bones.model.named_modules():
        kind = _kind(module)
        if kind is not None and not f"{path}.".startswith(tuple(f"{one}." for one in trained)):
            whole = base == "int8" and path.startswith(inside) and kind is not HeldEmbedding
            module.__class__ = kind
            module.held_type = torch.int8 if whole else torch.bfloat16
            module.register_buffer("scale", None, persistent=False)


def held_type(model: nn.Module, name: str) -> torch.dtype:
    """The type in which the parameter of that name is held."""
    parent, last = place(model, name)
    found = getattr(parent, "held_type", torch.float32) if last == "weight" else torch.float32
    return found if isinstance(found, torch.dtype) else torch.float32


def put(model: nn.Module, name: str, values: torch.Tensor) -> None:
    """Give a parameter its values, in the type in which it is held, frozen.

    Raises CheckpointError where it is to be held in 8 bits, which have no form for values that are not finite.
    """
    parent, last = place(model, name)
    to = held_type(model, name)
    if to is torch.int8:
        values, scale = _int8(values, turned=isinstance(parent, Conv1D))
        if not scale.isfinite().all():
            raise CheckpointError(
                f"tensor {name} has values that are not finite, which int8 cannot hold; use another checkpoint"
            )
        parent.scale = scale
    parent._parameters[last] = nn.Parameter(values.to(to), requires_grad=False)


def _kind(module: nn.Module) -> Any:
    if type(module) is nn.Linear:
        return HeldLinear
    if type(module) is Conv1D:
        return HeldConv1D
    return HeldEmbedding if isinstance(module, nn.Embedding) else None


def _int8(values: torch.Tensor, *, turned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in 8 bits, and the (out, 1) scales of its rows: the largest magnitude of each becomes 127."""
    held = torch.empty(values.shape, dtype=torch.int8)
    rows, to = (values.t(), held.t()) if turned else (values, held)
    scale = torch.empty(len(rows), 1)
    for part in _parts(rows):
        piece = rows[part].float()
        largest = torch.linalg.vector_norm(piece, torch.inf, dim=1, keepdim=True)
        scale[part] = largest.div(_MOST).clamp(min=_LEAST)
        to[part] = piece.div(scale[part]).round_()
    return held, scale


def _parts(rows: torch.Tensor) -> Iterator[slice]:
    for begin in range(0, len(rows), _step(rows)):
        yield slice(begin, begin + _step(rows))


def _step(rows: torch.Tensor) -> int:
    return max(1, _PIECE_BYTES // (4 * rows.shape[1]))


def _pieces(weight: torch.Tensor, scale: torch.Tensor | None) -> Iterator[tuple[slice, torch.Tensor]]:
    """The rows of a held weight (out, in), in float32, a piece at a time: each lies where the one before it lay."""
    rows, width = min(_step(weight), len(weight)), weight.shape[1]
    room = torch.empty(rows, width) if weight.is_contiguous() else torch.empty(width, rows).t()
    for part in _parts(weight):
        held = weight[part]
        piece = room[: len(held)]
        yield part, piece.copy_(held) if scale is None else torch.mul(held, scale[part], out=piece)


def _product(
    values: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    out: torch.Tensor = _Product.apply(values.reshape(-1, values.shape[-1]), weight, scale)  # type: ignore[no-untyped-call]
    if bias is not None:
        out.add_(bias)
    return out.view(*values.shape[:-1], len(weight))


class _Product(torch.autograd.Function):
    """values (rows, in) times a held weight (out, in), of which nothing else is kept until the backward."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        out = values.new_empty(len(values), len(weight))
        for part, piece in _pieces(weight, scale):
            torch.mm(values, piece.t(), out=out[:, part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        back = gradient.new_zeros(len(gradient), weight.shape[1])
        for part, piece in _pieces(weight, scale):
            back.addmm_(gradient[:, part], piece)
        return back, None, None
