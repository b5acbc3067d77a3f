"""Between padded batches and the packed form that travels: the real tokens of all rows, one after another.

Padding is never sent. Rows are padded on the right, so a row's number of real tokens says where they are.
"""

from collections.abc import Sequence

import torch


def mask_of(lengths: Sequence[int]) -> torch.Tensor:
    """Attention mask of rows with `lengths` real tokens: (rows, longest), int64, 1 where real."""
    columns = torch.arange(max(lengths))
    return (columns < torch.tensor(lengths).unsqueeze(1)).long()


def pack(padded: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The real tokens of `padded` (rows, longest, width) as (sum of lengths, width)."""
    return padded[mask_of(lengths).bool()]


def unpack(packed: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Inverse of `pack`: (rows, longest, width), zero where there is padding. Differentiable."""
    mask = mask_of(lengths).bool()
    padded = packed.new_zeros((*mask.shape, packed.shape[-1]))
    return padded.index_put((mask,), packed)
