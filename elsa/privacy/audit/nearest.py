"""A0, nearest neighbour: the edge compares each state with those of every token of the vocabulary.

The baseline of split-learning inversion, and never a result alone: a protection that merely moves states defeats it.
"""

from dataclasses import dataclass

import torch

from elsa.privacy.audit.matching import Match, Matcher, Prototypes
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery

ROUNDS = 2
OF_CONTEXT = 0.1  # share of the stray that a guessed context leaves, wrong as some of its tokens are


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """Texts as an attacker reads them."""

    guess: Match
    expected: torch.Tensor  # (tokens, width): states of the guessed text, as the edge would decode them unturned
    less: torch.Tensor  # (tokens, width): states observed less what their context adds
    seen: torch.Tensor | None  # (width, width): projection on what was compared; None for everything


def nearest(observed: Observed, knowledge: Knowledge, prototypes: Prototypes) -> Recovery:
    """A0: match every state with the vocabulary's, then again with the context that the guesses make.

    The attacker knows the pretrained bottom, public text, codec and noise, and passes over any turn. It needs one
    product of tokens by vocabulary a round and one run of the bottom on the guessed text.
    """
    found = read(observed, knowledge, prototypes, observed.states)
    return scored("A0 nearest neighbour", observed, knowledge, prototypes, found)


def read(
    observed: Observed,
    knowledge: Knowledge,
    prototypes: Prototypes,
    states: torch.Tensor,
    seen: torch.Tensor | None = None,
    rounds: int = ROUNDS,
) -> Reading:
    """Guess the texts of `states` (tokens, width), which stand for those observed, comparing within `seen` alone.

    The first guess takes the public mean of each place off. Each further round runs the guessed text through the
    public bottom and takes off what its context adds to the prototypes.
    """
    less = states - prototypes.at(observed.places)
    guess = with_specials(observed, knowledge, Matcher(prototypes, seen=seen).match(less))
    matcher = in_context(prototypes, seen)
    for round_ in range(rounds):
        if round_:
            before, guess = guess, with_specials(observed, knowledge, matcher.match(less))
            if torch.equal(before.ids, guess.ids):
                break
        expected = expected_states(observed, knowledge, prototypes, guess.ids)
        less = states - (expected - prototypes.centres[guess.ids])
    return Reading(guess=guess, expected=expected, less=less, seen=seen)


def in_context(prototypes: Prototypes, seen: torch.Tensor | None = None) -> Matcher:
    """A matcher for states less their guessed context: what strays is codec and noise, and a little of the rest."""
    return Matcher(prototypes, seen=seen, stray=prototypes.blur + OF_CONTEXT * prototypes.stray)


def expected_states(
    observed: Observed, knowledge: Knowledge, prototypes: Prototypes, ids: torch.Tensor
) -> torch.Tensor:
    """(tokens, width): what the edge would decode on average, nothing turned, if `ids` were the texts observed."""
    rows = [row.tolist() for row in torch.split(ids, list(observed.lengths))]
    return prototypes.decoded(knowledge.public.states(rows))


def with_specials(observed: Observed, knowledge: Knowledge, guess: Match) -> Match:
    """`guess` with the special tokens, which their place gives away, put in for certain."""
    frame = knowledge.public.frame
    ids, confidence = guess.ids.clone(), guess.confidence.clone()
    for at, token in enumerate(frame.begin):
        ids[observed.places == at] = token
    for before, token in enumerate(reversed(frame.end)):
        ids[observed.from_end == before] = token
    confidence[~knowledge.content(observed)] = 1.0
    return Match(ids, confidence)


def scored(
    attack: str,
    observed: Observed,
    knowledge: Knowledge,
    prototypes: Prototypes,
    reading: Reading,
    note: str = "",
) -> Recovery:
    """The row of an attack that ends with `reading`: right tokens of the texts observed, special ones not counted."""
    counted = knowledge.content(observed)
    matcher = in_context(prototypes, reading.seen)
    return matcher.recovery(attack, reading.less[counted], observed.ids[counted], note)
