"""A3, ciphertext only: the turn is found without one known text, from statistics that no rotation hides.

Means by place, those of special tokens among them, give a rough turn on a few directions. Turned states also cluster
around a known set of prototypes: guess softly which token each is of by the directions known so far, take the turn
that fits the guesses best (Procrustes), measure what strays, and guess again on a few more directions. This is
expectation maximisation of a Gaussian mixture seen through an unknown rotation; unsupervised alignment of word
embeddings (Grave, Joulin and Berthet, arXiv 1805.11222) is the same task.
"""

from dataclasses import dataclass

import torch

from elsa.privacy.audit.matching import Prototypes, place_means, whitener
from elsa.privacy.audit.nearest import Reading, scored
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.procrustes import Estimate, self_anchored, turned_basis
from elsa.privacy.audit.public import Frame

PLACES = 12  # from either end of a text, whose means are compared
STAGES = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024)  # directions compared, from few to many
PASSES = 4  # of expectation maximisation at each
TOKENS_AT_ONCE = 1024


def ciphertext_only(observed: Observed, knowledge: Knowledge, prototypes: Prototypes, count: int) -> Recovery:
    """A3: the first `count` texts, all under one key, read with nothing but what is public.

    Where the turn leaves a complement, A1 is tried as well, and what fits the states better is taken. It costs some
    fifty products of the texts' tokens by the tokens of the public text, then what A1 costs. It stands on public text
    of the kind of the texts observed: with another kind the first means are off and it may find nothing. Raises
    InputError where nothing is turned.
    """
    texts, basis = observed.first(count), turned_basis(knowledge)
    starts = [aligned(texts, knowledge, prototypes)]
    if len(basis) < basis.shape[1]:
        starts.append(Estimate.nothing(basis))
    readings = [self_anchored(texts, knowledge, prototypes, start) for start in starts]
    found = min(readings, key=lambda reading: _misfit(reading, prototypes))
    attack = f"A3 ciphertext only, {count}"
    return scored(attack, texts, knowledge, prototypes, found, f"{len(texts.lengths)} texts under one key")


def aligned(observed: Observed, knowledge: Knowledge, prototypes: Prototypes) -> Estimate:
    """The turn of the texts observed, on all directions of V."""
    task = _Task.of(observed, knowledge, prototypes)
    cross, stray = task.of_places(), 2 * task.stray  # both (rank, rank)
    for directions in (*(stage for stage in STAGES if stage < len(task.basis)), len(task.basis)):
        for _ in range(PASSES):
            cross, stray = task.improved(cross, stray, directions)
    return _estimate(task.basis, cross)


def _misfit(reading: Reading, prototypes: Prototypes) -> float:
    """Mean square distance of the states to those of the guessed text, where they were compared."""
    off = reading.less - prototypes.centres[reading.guess.ids]
    return float((off if reading.seen is None else off @ reading.seen).square().mean())


def _estimate(basis: torch.Tensor, cross: torch.Tensor) -> Estimate:
    left, _, right = torch.linalg.svd(cross.double())
    return Estimate(basis=basis, back=(left @ right).T.float(), known=torch.eye(len(basis)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """All in coordinates on V: what was seen, and what it is matched with."""

    basis: torch.Tensor  # (rank, width)
    seen: Observed  # its states are (tokens, rank)
    public: Observed  # public text, not turned; as seen
    content: torch.Tensor  # (tokens,) bool: what is not special
    special: torch.Tensor  # (tokens, rank): public means of special tokens, zero elsewhere
    places: torch.Tensor  # (tokens, rank): what the place adds
    centres: torch.Tensor  # (candidates, rank): prototypes of the tokens of the public text
    prior: torch.Tensor  # (candidates,)
    stray: torch.Tensor  # (rank, rank)

    @classmethod
    def of(cls, observed: Observed, knowledge: Knowledge, prototypes: Prototypes) -> "_Task":
        """Project it all."""
        basis, text = turned_basis(knowledge), knowledge.public
        public = Observed(
            states=prototypes.decoded(text.text_states) @ basis.T, ids=text.text_ids, lengths=text.text_lengths
        )
        content = knowledge.content(observed)
        candidates = torch.unique(public.ids[knowledge.content(public)])
        return cls(
            basis=basis,
            seen=Observed(states=observed.states @ basis.T, ids=observed.ids, lengths=observed.lengths),
            public=public,
            content=content,
            special=_special(observed, public, text.frame),
            places=prototypes.at(observed.places) @ basis.T,
            centres=prototypes.centres[candidates] @ basis.T,
            prior=prototypes.prior[candidates],
            stray=basis @ prototypes.stray @ basis.T,
        )

    def of_places(self) -> torch.Tensor:
        """(rank, rank) cross-products of the means of public and of seen states, in all and by place."""
        ours, theirs = self.public.states.mean(0), self.seen.states.mean(0)
        cross = torch.outer(ours, theirs)
        for back in (False, True):
            for place in range(PLACES):
                here, there = _at(self.public, place, back=back), _at(self.seen, place, back=back)
                share = min(len(here) / len(self.public.ids), len(there) / len(self.seen.ids))
                if share > 0:
                    cross += share * torch.outer(here.mean(0) - ours, there.mean(0) - theirs)
        return cross

    def improved(
        self, cross: torch.Tensor, stray: torch.Tensor, directions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass: tokens guessed on the best known `directions`; cross-products and stray that follow."""
        plain, _, turned = (part.float() for part in torch.linalg.svd(cross.double()))
        plain, turned = plain[:, :directions], turned[:directions].T
        measure = plain @ whitener(plain.T @ stray @ plain)  # (rank, directions)
        states = (self.seen.states @ turned) @ (plain.T @ measure) - self.places @ measure
        expected, counts = self._guessed(states, self.centres @ measure)
        cross = expected.T @ self.seen.states / len(expected)
        return cross, self._stray(expected, counts, _estimate(self.basis, cross).back)

    def _guessed(self, states: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, rank) states expected before the turn, and (candidates,) how often each token is expected."""
        expected, counts = self.special.clone(), torch.zeros(len(centres))
        level = self.prior - centres.square().sum(1) / 2
        for at in torch.split(self.content.nonzero()[:, 0], TOKENS_AT_ONCE):
            chance = torch.addmm(level, states[at], centres.T).softmax(1)
            expected[at] = chance @ self.centres + self.places[at]
            counts += chance.sum(0)
        return expected, counts

    def _stray(self, expected: torch.Tensor, counts: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """(rank, rank): what is left of the states, and how unsure the guesses are."""
        rest = (self.seen.states @ back - expected)[self.content]
        means = (expected - self.places)[self.content]
        unsure = (self.centres * counts[:, None]).T @ self.centres - means.T @ means
        return (rest.T @ rest + (unsure + unsure.T) / 2) / len(rest)


def _at(texts: Observed, place: int, *, back: bool) -> torch.Tensor:
    return texts.states[(texts.from_end if back else texts.places) == place]


def _special(observed: Observed, public: Observed, frame: Frame) -> torch.Tensor:
    """(tokens, rank) public means of the special tokens, by their place; zero for all others."""
    means = torch.zeros(len(observed.ids), public.states.shape[1])
    for at in range(len(frame.begin)):
        means[observed.places == at] = public.states[public.places == at].mean(0)
    for after in range(len(frame.end)):
        ours, theirs = public.from_end == after, observed.from_end == after
        by_place = place_means(public.states[ours], public.places[ours])
        means[theirs] = by_place[observed.places[theirs].clamp(max=len(by_place) - 1)]
    return means
