"""What a client needs of the blocks between its own: send a micro-batch forward, send a gradient back, get answers.

`services.client` implements it over a gRPC stream; `LocalTrunk` runs the edge's own session in this process, which
is what the laws are tested with.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from elsa.train.session import Position, TrunkSession


@dataclass(frozen=True, kw_only=True)
class ForwardReply:
    """Activations at the upper cut, (tokens, width)."""

    position: Position
    activations: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class BackwardReply:
    """Gradient at the lower cut, (tokens, width); None where the client wants none."""

    position: Position
    gradient: torch.Tensor | None


Reply = ForwardReply | BackwardReply


class Trunk(Protocol):
    """The blocks between a client's bottom and top. Answers come in the order of what was sent."""

    def missing(self, rows: Sequence[int]) -> list[bool]:
        """Of each row, by its number, whether `forward` needs its activations: not of those that the trunk keeps."""

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], rows: Sequence[int] = ()
    ) -> None:
        """Send activations (tokens, width) of the rows that are missing.

        Args:
            lengths: real tokens of all rows.
            rows: numbers of all rows; empty where they have none.
        """

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> None:
        """Send the gradient (tokens, width) by the answer to a forward; with `apply` the optimizer steps after it."""

    def receive(self) -> Reply:
        """Wait for the next answer."""


class LocalTrunk:
    """A trunk in this process."""

    def __init__(self, session: TrunkSession) -> None:
        self._session = session
        self._replies: deque[Reply] = deque()

    def missing(self, rows: Sequence[int]) -> list[bool]:
        """See `Trunk`; nothing is kept here."""
        return [True] * len(rows)

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], rows: Sequence[int] = ()
    ) -> None:
        """See `Trunk`."""
        values = self._session.forward(position, activations, lengths)
        self._replies.append(ForwardReply(position=position, activations=values))

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> None:
        """See `Trunk`."""
        values = self._session.backward(position, gradient, apply)
        self._replies.append(BackwardReply(position=position, gradient=values))

    def receive(self) -> Reply:
        """See `Trunk`."""
        return self._replies.popleft()
