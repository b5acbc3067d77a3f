"""Texts in a language of skewed frequencies through a tiny pretrained bottom, and the turns that attacks face."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tiny_models import VOCABULARY

from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.privacy.audit.observed import Knowledge, Observed
from elsa.privacy.audit.public import Frame, PublicBottom
from elsa.spec import Split

SPLIT = Split(bottom=1, trunk=1, top=1)
FRAME = Frame(begin=(1,), end=(2,))
WIDTH = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    knowledge: Knowledge
    observed: Observed


def texts(count: int, seed: int) -> list[list[int]]:
    """Framed texts of 2 to 9 tokens, the low numbers by far the most frequent, some tied to their place."""
    draw = torch.Generator().manual_seed(seed)
    weights = 1.0 / (torch.arange(VOCABULARY - 3) + 1.0)
    rows = []
    for _ in range(count):
        length = int(torch.randint(2, 10, (), generator=draw))
        tokens = 3 + torch.multinomial(weights, length, replacement=True, generator=draw)
        tokens[0] = 3 + int(torch.randint(4, (), generator=draw))
        rows.append([*FRAME.begin, *tokens.tolist(), *FRAME.end])
    return rows


def world(folder: object, observed: int = 40, public: int = 300, frame: Frame = FRAME) -> World:
    segment = Segment.client(Checkpoint.open(str(folder)), SPLIT, task="classification", num_labels=3)
    bottom = PublicBottom(segment, SPLIT, frame=frame, text=texts(public, seed=1))
    return World(knowledge=Knowledge(public=bottom), observed=seen(bottom, texts(observed, seed=2)))


def seen(bottom: PublicBottom, rows: Sequence[Sequence[int]]) -> Observed:
    ids = torch.tensor([token for row in rows for token in row])
    return Observed(states=bottom.states(rows), ids=ids, lengths=tuple(map(len, rows)))


def orthogonal(size: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    found: torch.Tensor = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))[0]
    return found.float()


def axes(states: torch.Tensor, rank: int) -> torch.Tensor:
    """(rank, width): the directions in which `states` vary most."""
    return torch.linalg.svd(states - states.mean(0), full_matrices=False)[2][:rank]


def turned(states: torch.Tensor, basis: torch.Tensor, key: int) -> torch.Tensor:
    """`states` turned within `basis` (rank, width), written otherwise than in elsa.privacy."""
    inside = states @ basis.T
    return states - inside @ basis + inside @ orthogonal(len(basis), key) @ basis


def under_turn(plain: World, rank: int, key: int = 99) -> World:
    basis = axes(plain.knowledge.public.text_states, rank)
    observed = replace(plain.observed, states=turned(plain.observed.states, basis, key))
    knowledge = replace(plain.knowledge, basis=basis, protect=lambda states, own: turned(states, basis, own))
    return World(knowledge=knowledge, observed=observed)
