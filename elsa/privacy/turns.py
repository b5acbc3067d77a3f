"""The secret turns of one session: the same at every step, or a new one each step, made when they are needed."""

from collections import OrderedDict

import torch

from elsa.privacy.keys import Key
from elsa.privacy.ssop import Turn, turn

MOST_HELD = 2
"""Turns of the latest steps; the one before is asked for again after a stream broke."""


class Turns:
    """Gives the turn of a step.

    Args:
        basis: public, (rank, width).
        cut: blocks before the cut, which the turn is drawn for.
        renew_each_step: whether each step has its own.
    """

    def __init__(self, key: Key, basis: torch.Tensor, cut: int, *, renew_each_step: bool) -> None:
        self.key = key
        self.basis = basis
        self.renew_each_step = renew_each_step
        self._cut = cut
        self._held: OrderedDict[int, Turn] = OrderedDict()

    def __call__(self, step: int) -> Turn:
        """The turn of a step, from 0. Raises MalformedError for a basis whose rows are not orthonormal."""
        epoch = step if self.renew_each_step else 0
        if epoch not in self._held:
            self._held[epoch] = turn(self.key, self.basis, self._cut, epoch)
        while len(self._held) > MOST_HELD:
            self._held.popitem(last=False)
        return self._held[epoch]

    def __repr__(self) -> str:
        return f"Turns(rank={len(self.basis)}, renew_each_step={self.renew_each_step})"
