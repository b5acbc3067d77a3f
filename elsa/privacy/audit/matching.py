"""Which token a state is of: Gaussian classes around public prototypes, the best that second moments can do.

The prototype of a token is its state as the only one of its text, moved by the mean of its place and by what codec
and noise do on average. How far states stray from it (context, codec, noise) is measured on public text, and
distances are taken in that measure; the frequencies of public text are the prior. This is linear discriminant
analysis with one class a token of the vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from elsa.errors import InputError
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery

TOKENS_AT_ONCE = 512
RIDGE = 0.01  # of the mean variance, added to all: keeps what the public text hardly moves in proportion
UNSEEN = 0.1  # share of the prior that is spread over the whole vocabulary
PULL = 5.0  # tokens' worth of the mean of all places in the mean of one


class Match(NamedTuple):
    """The best guess for each token."""

    ids: torch.Tensor  # (tokens,) int64
    confidence: torch.Tensor  # (tokens,) float32, the guess's probability in the model


@dataclass(frozen=True, kw_only=True, eq=False)
class Prototypes:
    """What public text says about the states of each token, as the edge decodes them."""

    centres: torch.Tensor  # (vocabulary, width)
    places: torch.Tensor  # (places, width): what a place adds; the last stands for all beyond
    stray: torch.Tensor  # (width, width): covariance of what is left
    blur: torch.Tensor  # (width, width): the part of it that codec and noise make
    slope: torch.Tensor  # (width, width) and
    shift: torch.Tensor  # (width,): codec and noise on average are states @ slope + shift
    prior: torch.Tensor  # (vocabulary,): logarithm of the tokens' frequencies

    @classmethod
    def of(cls, knowledge: Knowledge) -> "Prototypes":
        """From the public text, run once through codec and noise. Raises InputError if it has no words."""
        public = knowledge.public
        states, ids = public.text_states, public.text_ids
        text = Observed(states=knowledge.codec(states), ids=ids, lengths=public.text_lengths)
        slope, shift = affine(states, text.states)
        centres = public.alone @ slope + shift
        counted = knowledge.content(text)
        if not bool(counted.any()):
            raise InputError("the public text holds special tokens alone; give sentences with words")
        rest = text.states[counted] - centres[ids[counted]]
        places = place_means(rest, text.places[counted])
        rest = rest - places[text.places[counted].clamp(max=len(places) - 1)]
        blur = text.states - states @ slope - shift
        return cls(
            centres=centres,
            places=places,
            stray=rest.T @ rest / len(rest),
            blur=blur.T @ blur / len(blur),
            slope=slope,
            shift=shift,
            prior=_prior(ids[counted], public.vocabulary),
        )

    def decoded(self, states: torch.Tensor) -> torch.Tensor:
        """`states` (tokens, width) as codec and noise leave them on average."""
        return states @ self.slope + self.shift

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """(tokens, width): what the place of each token adds."""
        return self.places[places.clamp(max=len(self.places) - 1)]


class Matcher:
    """Finds the tokens of states within a subspace.

    Args:
        prototypes: of the same codec and noise as the states.
        seen: (width, width) orthogonal projection on what is compared; None for all.
        stray: (width, width) covariance to measure by; that of the prototypes when None.

    Attributes:
        centres: (vocabulary, width) prototypes, whitened.
        level: (vocabulary,) what a score starts from: prior less half the square of the centre's length.
    """

    def __init__(
        self,
        prototypes: Prototypes,
        *,
        seen: torch.Tensor | None = None,
        stray: torch.Tensor | None = None,
    ) -> None:
        stray = prototypes.stray if stray is None else stray
        self._to = whitener(stray if seen is None else seen @ stray @ seen)
        self._to = self._to if seen is None else seen @ self._to
        self.centres = prototypes.centres @ self._to
        self.level = prototypes.prior - self.centres.square().sum(1) / 2

    def whitened(self, states: torch.Tensor) -> torch.Tensor:
        """`states` (tokens, width), less place or context, where distances to `centres` are what counts."""
        return states @ self._to

    def scores(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        """(part, vocabulary): logarithms of probabilities up to a constant a token, part after part.

        `states` (tokens, width) are those seen less what is expected of place or context.
        """
        for part in torch.split(self.whitened(states), TOKENS_AT_ONCE):
            yield torch.addmm(self.level, part, self.centres.T)

    def match(self, states: torch.Tensor) -> Match:
        """The most probable token of each state; as `scores`."""
        ids, sure = [], []
        for part in self.scores(states):
            best, at = part.max(1)
            sure.append((best - part.logsumexp(1)).exp())
            ids.append(at)
        return Match(torch.cat(ids), torch.cat(sure))

    def recovery(self, attack: str, states: torch.Tensor, truth: torch.Tensor, note: str = "") -> Recovery:
        """How often the best of the whole vocabulary is right, and the median rank of the right one.

        Args:
            states: as for `scores`, of the tokens that count alone.
            truth: (tokens,) their numbers.
        """
        ranks = []
        for part, right in zip(self.scores(states), torch.split(truth, TOKENS_AT_ONCE), strict=True):
            ranks.append((part > part.gather(1, right[:, None])).sum(1) + 1)
        return recovery_of(attack, torch.cat(ranks), note)


def recovery_of(attack: str, ranks: torch.Tensor, note: str = "") -> Recovery:
    """The row for (tokens,) ranks of the right tokens, 1 for the best. Raises InputError for none."""
    if not len(ranks):
        raise InputError(f"{attack}: the texts observed hold special tokens alone; give texts with words")
    top1 = float((ranks == 1).float().mean())
    return Recovery(attack=attack, top1=top1, rank=float(ranks.float().median()), tokens=len(ranks), note=note)


def affine(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The slope (width, width) and shift (width,) of the best affine map from `before` to `after`, (tokens, width).

    Ridge regression of the change on the state, so that few tokens give the identity and exact ones the exact map.
    """
    middle, centre = before.mean(0), after.mean(0)
    inputs, change = before - middle, (after - centre) - (before - middle)
    gram = (inputs.T @ inputs).double()
    gram += torch.eye(len(gram)) * (1e-4 * gram.diagonal().mean() + 1e-12)
    slope = torch.eye(len(gram)) + torch.linalg.solve(gram, (inputs.T @ change).double()).float()
    return slope, centre - middle @ slope


def place_means(rest: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(longest + 1, width) means of `rest` (tokens, width) by place, pulled to that of all, which comes last."""
    longest = int(places.max()) + 1
    everywhere = rest.mean(0)
    sums = torch.zeros(longest, rest.shape[1]).index_add_(0, places, rest)
    counts = torch.bincount(places, minlength=longest)[:, None]
    return torch.cat([(sums + PULL * everywhere) / (counts + PULL), everywhere[None]])


def whitener(covariance: torch.Tensor) -> torch.Tensor:
    """(width, width) L with L·Lᵀ the inverse of `covariance`, eased by a ridge."""
    values, axes = torch.linalg.eigh((covariance + covariance.T).double() / 2)
    values = values.clamp(min=0)  # rounding leaves some a little below
    scaled: torch.Tensor = axes * (values + RIDGE * values.mean() + 1e-12).rsqrt()
    return scaled.float()


def _prior(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    seen = torch.bincount(ids, minlength=vocabulary) / max(len(ids), 1)
    return ((1 - UNSEEN) * seen + UNSEEN / vocabulary).log()
