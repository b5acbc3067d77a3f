"""What the learned inverter is shown of states: lessons from public text, and the texts observed in the same form."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from elsa.privacy.audit.matching import Matcher, Prototypes
from elsa.privacy.audit.observed import Knowledge, Observed

SWAPPED = 0.2  # share of a lesson's tokens that are drawn from the vocabulary instead


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """Tokens under one key."""

    start: torch.Tensor  # (tokens, width): where the linear matcher would look
    features: torch.Tensor  # (tokens, inputs): that of the token and its neighbours, and what no turn changes
    ids: torch.Tensor  # (tokens,)

    @classmethod
    def of(cls, texts: Observed, knowledge: Knowledge, prototypes: Prototypes, matcher: Matcher) -> "Lesson":
        """What a text shows whatever the key. All tokens of `texts`, special ones included."""
        start = matcher.whitened(texts.states - prototypes.at(texts.places))
        parts = [start, _beside(start, texts, -1), _beside(start, texts, 1)]
        if knowledge.basis is not None:
            parts.append(_invariants(texts.states @ knowledge.basis.T, texts))
        return cls(start=start, features=torch.cat(parts, 1), ids=texts.ids)

    def only(self, chosen: torch.Tensor) -> "Lesson":
        """Some of the tokens, by mask or number."""
        return Lesson(start=self.start[chosen], features=self.features[chosen], ids=self.ids[chosen])


def lessons(
    knowledge: Knowledge, prototypes: Prototypes, matcher: Matcher, *, keys: int, held: int, tokens: int, seed: int
) -> Iterator[Lesson]:
    """`keys` lessons of about `tokens` tokens, each under a key of its own; the last `held` from texts of their own.

    Only tokens that are not special are in a lesson.
    """
    draw = torch.Generator().manual_seed(seed)
    texts = len(knowledge.public.text)
    apart = max(texts // 8, 1) if texts > 1 else 0
    for key in range(keys):
        pool = range(texts - apart) if key < keys - held or not apart else range(texts - apart, texts)
        public = _chosen(knowledge, pool, tokens, draw)
        states = knowledge.applied(knowledge.public.states(public.rows()), key)
        shown = Observed(states=states, ids=public.ids, lengths=public.lengths)
        yield Lesson.of(shown, knowledge, prototypes, matcher).only(knowledge.content(shown))


def _chosen(knowledge: Knowledge, pool: range, tokens: int, draw: torch.Generator) -> Observed:
    """Public texts at random, some of their tokens swapped; their states are left empty."""
    rows: list[tuple[int, ...]] = []
    while sum(map(len, rows)) < tokens:
        rows.append(knowledge.public.text[pool[int(torch.randint(len(pool), (), generator=draw))]])
    ids = torch.tensor([token for row in rows for token in row])
    texts = Observed(states=torch.empty(len(ids), 0), ids=ids, lengths=tuple(map(len, rows)))
    swapped = (torch.rand(len(ids), generator=draw) < SWAPPED) & knowledge.content(texts)
    others = torch.randint(knowledge.public.vocabulary, (len(ids),), generator=draw)
    return Observed(states=texts.states, ids=torch.where(swapped, others, ids), lengths=texts.lengths)


def _beside(values: torch.Tensor, texts: Observed, step: int) -> torch.Tensor:
    """`values` (tokens, n) of the token before (-1) or after (1) in the same text; zero where there is none."""
    there = (texts.places if step < 0 else texts.from_end) > 0
    return torch.roll(values, -step, 0) * there[:, None]


def _invariants(turned: torch.Tensor, texts: Observed) -> torch.Tensor:
    """(tokens, 5): the square of the length of (tokens, rank) `turned`, and inner products within its text.

    With the token before, the one after, the first and the last; all in units of the mean square.
    """
    at = torch.arange(len(turned))
    others = [turned, _beside(turned, texts, -1), _beside(turned, texts, 1)]
    others += [turned[at - texts.places], turned[at + texts.from_end]]
    products = torch.stack([(turned * other).sum(1) for other in others], 1)
    return products / products[:, 0].mean()
