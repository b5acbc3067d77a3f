"""Estimating the secret turn from pairs of plain and turned states, and undoing it as far as it is known.

Orthogonal Procrustes: the rotation that best takes one set of vectors to another is in the singular vectors of their
cross-product (Schönemann, Psychometrika 31, 1966). Fewer pairs than dimensions fix it on what they span alone, and
only that is then compared.
"""

from dataclasses import dataclass

import torch

from elsa.errors import InputError
from elsa.privacy.audit.matching import Prototypes
from elsa.privacy.audit.nearest import Reading, read
from elsa.privacy.audit.observed import Knowledge, Observed

SURE = 0.9  # a match below this probability is no anchor
ROUNDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Coordinates on the basis V of states before and after the turn."""

    plain: torch.Tensor  # (pairs, rank)
    turned: torch.Tensor  # (pairs, rank)


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """What is known of a turn: plain coordinates are turned ones @ `back` on the directions of `known`."""

    basis: torch.Tensor  # V, (rank, width)
    back: torch.Tensor  # (rank, rank)
    known: torch.Tensor  # (rank, rank) projection of plain coordinates

    @classmethod
    def nothing(cls, basis: torch.Tensor) -> "Estimate":
        """Only the complement of V can be compared."""
        none = torch.zeros(len(basis), len(basis))
        return cls(basis=basis, back=none, known=none)

    def unturned(self, states: torch.Tensor) -> torch.Tensor:
        """`states` (tokens, width) as they were before the turn; zero along what is not known of V."""
        turned = states @ self.basis.T
        return states + (turned @ self.back - turned) @ self.basis

    @property
    def seen(self) -> torch.Tensor | None:
        """(width, width) projection on what can be compared; None for everything."""
        if int(self.known.trace().round()) == len(self.basis):
            return None
        return complement_of(self.basis) + self.basis.T @ self.known @ self.basis


def procrustes(basis: torch.Tensor, pairs: Pairs) -> Estimate:
    """The turn that best explains `pairs`, known on as many directions as there are pairs."""
    left, _, right = torch.linalg.svd((pairs.plain.T @ pairs.turned).double())
    known = min(len(pairs.plain), len(basis))
    left, right = left[:, :known].float(), right[:known].float()
    return Estimate(basis=basis, back=right.T @ left.T, known=left @ left.T)


def self_anchored(
    observed: Observed,
    knowledge: Knowledge,
    prototypes: Prototypes,
    estimate: Estimate,
    anchors: Pairs | None = None,
    rounds: int = ROUNDS,
) -> Reading:
    """Read under `estimate`; take confident matches and `anchors` as pairs for the next estimate; and so on."""
    reading = read(observed, knowledge, prototypes, estimate.unturned(observed.states), estimate.seen)
    for _ in range(rounds):
        pairs = joined(sure_pairs(observed, estimate.basis, reading), anchors)
        if len(pairs.plain) == 0:
            return reading
        before, estimate = reading, procrustes(estimate.basis, pairs)
        reading = read(observed, knowledge, prototypes, estimate.unturned(observed.states), estimate.seen)
        if estimate.seen is None and torch.equal(before.guess.ids, reading.guess.ids):
            return reading
    return reading


def sure_pairs(observed: Observed, basis: torch.Tensor, reading: Reading) -> Pairs:
    """What the guessed text would give against what was observed, where the guess is confident."""
    sure = reading.guess.confidence > SURE
    return Pairs(plain=reading.expected[sure] @ basis.T, turned=observed.states[sure] @ basis.T)


def joined(one: Pairs, other: Pairs | None) -> Pairs:
    """The pairs of both."""
    if other is None:
        return one
    return Pairs(plain=torch.cat([one.plain, other.plain]), turned=torch.cat([one.turned, other.turned]))


def turned_basis(knowledge: Knowledge) -> torch.Tensor:
    """V, (rank, width). Raises InputError where nothing is turned."""
    if knowledge.basis is None:
        raise InputError("this attack is on turned states; give the basis of the turn")
    return knowledge.basis


def complement_of(basis: torch.Tensor) -> torch.Tensor:
    """(width, width) projection on what a turn within `basis` (rank, width) leaves; zero where that is nothing."""
    rank, width = basis.shape
    return torch.eye(width) - basis.T @ basis if rank < width else torch.zeros(width, width)
