"""Stand-ins for the parts of a model that are not owned or do not run, and how they are put in place."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


class PassThrough(nn.Module):
    """Stands for a block, a norm or a pooler that does not run: returns its first argument."""

    def forward(self, first: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Return `first` as it is."""
        return first


class Feed(nn.Module):
    """Stands for the embeddings where states come from elsewhere: returns them, whatever it is given."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        """Return the states it was made with."""
        return self.states


def place(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The parent of the module at a path, and its name there."""
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name


@contextmanager
def swapped(model: nn.Module, stand_ins: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
    """Put modules in the places at these paths for the time of the context, then put the old ones back."""
    kept: list[tuple[nn.Module, str, nn.Module | None]] = []
    try:
        for path, stand_in in stand_ins:
            parent, name = place(model, path)
            kept.append((parent, name, parent._modules[name]))
            parent._modules[name] = stand_in
        yield
    finally:
        for parent, name, module in kept:
            parent._modules[name] = module
