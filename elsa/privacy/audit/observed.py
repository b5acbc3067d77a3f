"""What an honest-but-curious edge sees of its clients, what it knows besides, and how an attack's success is told.

The edge sees states at the lower cut as it decodes them, and how many tokens each text has. It does not see the
tokens: they are here to score attacks, and no attack may read them beyond the sentences that it is said to know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from elsa.errors import InputError
from elsa.privacy.audit.public import PublicBottom

Protect = Callable[[torch.Tensor, int], torch.Tensor]
"""(tokens, width) states and the number of a key, to what the edge decodes: turn, noise and codec in one."""

Codec = Callable[[torch.Tensor], torch.Tensor]
"""(tokens, width) states to what the edge decodes, where nothing is secret: noise and codec."""


def unprotected(states: torch.Tensor) -> torch.Tensor:
    """The states themselves."""
    return states


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """Texts under one key, one after another. Raises InputError where the three do not fit together."""

    states: torch.Tensor  # (tokens, width) float32, as the edge decodes them
    ids: torch.Tensor  # (tokens,) int64, the truth
    lengths: tuple[int, ...]  # tokens of each text, special tokens included

    def __post_init__(self) -> None:
        tokens = sum(self.lengths)
        if self.states.ndim != 2 or len(self.states) != tokens or self.ids.shape != (tokens,):
            raise InputError(
                f"observed states {tuple(self.states.shape)} and ids {tuple(self.ids.shape)} do not hold the "
                f"{tokens} tokens of {len(self.lengths)} texts; give one state and one id a token"
            )

    @property
    def places(self) -> torch.Tensor:
        """(tokens,) int64: the place of each token in its text, from 0."""
        return torch.cat([torch.arange(length) for length in self.lengths])

    @property
    def from_end(self) -> torch.Tensor:
        """(tokens,) int64: how many tokens of its text come after each."""
        return torch.cat([torch.arange(length - 1, -1, -1) for length in self.lengths])

    def rows(self) -> list[list[int]]:
        """The token numbers of each text."""
        return [part.tolist() for part in torch.split(self.ids, list(self.lengths))]

    def take(self, texts: Sequence[int]) -> "Observed":
        """These texts alone, in the order given."""
        ends = list(accumulate(self.lengths, initial=0))
        at = torch.cat([torch.arange(ends[text], ends[text + 1]) for text in texts])
        return Observed(states=self.states[at], ids=self.ids[at], lengths=tuple(self.lengths[text] for text in texts))

    def first(self, count: int) -> "Observed":
        """The first `count` texts, or all where there are fewer."""
        return self.take(range(min(count, len(self.lengths))))

    def after(self, count: int) -> "Observed":
        """All texts but the first `count`."""
        return self.take(range(count, len(self.lengths)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Knowledge:
    """What is public: the pretrained bottom, text of the same language, codec and noise, and V of SS-OP.

    Attributes:
        public: the base checkpoint's embeddings and bottom blocks, with text to run through them.
        codec: noise and codec, as anyone can apply them.
        basis: V of SS-OP, (rank, width) with orthonormal rows; None where states are not turned.
        protect: all of the protection, with noise and under a key of the attacker's own, by number; None where
            nothing is turned and the noise need not be fresh.
    """

    public: PublicBottom
    codec: Codec = unprotected
    basis: torch.Tensor | None = None
    protect: Protect | None = None

    def applied(self, states: torch.Tensor, key: int) -> torch.Tensor:
        """`states` (tokens, width) as the edge would decode them under the attacker's own key number `key`."""
        return self.codec(states) if self.protect is None else self.protect(states, key)

    def content(self, observed: Observed) -> torch.Tensor:
        """(tokens,) bool: tokens that are not special. Those that are special are known by their place."""
        frame = self.public.frame
        return (observed.places >= len(frame.begin)) & (observed.from_end >= len(frame.end))


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How much one attack recovered. Special tokens, which are known by their place, are not counted."""

    attack: str
    top1: float  # share of the tokens counted whose best guess is right
    rank: float  # median rank of the right token among all candidates, 1 for the best
    tokens: int  # tokens counted
    note: str = ""


def strongest(recoveries: Sequence[Recovery]) -> Recovery:
    """The row that counts: that of the highest top-1, of equal ones the lowest rank. Raises InputError for none."""
    if not recoveries:
        raise InputError("no attack was run; give at least one")
    return max(recoveries, key=lambda row: (row.top1, -row.rank))
