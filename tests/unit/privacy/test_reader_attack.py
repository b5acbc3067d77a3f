"""The reader of whole texts, and the floor that it makes without states."""

from dataclasses import replace

import pytest
import torch
from attack_worlds import FRAME, World, under_turn, world

from elsa.privacy.audit.inverter import Effort, learned
from elsa.privacy.audit.matching import Prototypes
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.public import PublicBottom
from elsa.privacy.audit.reader import guess, read

EFFORT = Effort(keys=4, lesson_tokens=512, epochs=8)


@pytest.fixture(scope="module")
def plain(make_folder) -> World:
    return world(make_folder("bert", "classification"))


def reading(of: World) -> Recovery:
    return read(of.observed, of.knowledge, Prototypes.of(of.knowledge), EFFORT)


def counting(plain: World, codec, observed: int = 40) -> World:
    """Texts that count up from a random token: each token follows from any other of its text."""
    draw = torch.Generator().manual_seed(3)
    rows = [
        [*FRAME.begin, *range(start, start + 6), *FRAME.end]
        for start in torch.randint(3, 30, (700,), generator=draw).tolist()
    ]
    of = plain.knowledge.public
    public = PublicBottom(of.segment, of.split, frame=FRAME, text=rows[observed:])
    ids = torch.tensor([token for row in rows[:observed] for token in row])
    seen = Observed(states=codec(public.states(rows[:observed])), ids=ids, lengths=(8,) * observed)
    return World(knowledge=Knowledge(public=public, codec=codec), observed=seen)


def test_it_reads_unprotected_states(plain: World) -> None:
    assert reading(plain).top1 > 0.9


def test_it_reads_what_is_not_turned(plain: World) -> None:
    assert reading(under_turn(plain, 4)).top1 > 0.9


def test_it_reads_from_the_text_what_a_state_leaves_open(plain: World) -> None:
    """The states of all words but the first are drowned in noise: neighbours alone say little, the text says all."""

    def drowned(states: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(len(states)))
        return states + 4 * states.std() * noise * (torch.arange(len(states)) % 8 != 1)[:, None]

    half = counting(plain, drowned)
    prototypes = Prototypes.of(half.knowledge)
    assert reading(half).top1 > learned(half.observed, half.knowledge, prototypes, EFFORT).top1 + 0.1


def test_the_floor_looks_at_no_state(plain: World) -> None:
    other = replace(plain.observed, states=torch.randn(plain.observed.states.shape))
    assert guess(plain.observed, plain.knowledge, EFFORT) == guess(other, plain.knowledge, EFFORT)


def test_the_floor_is_no_less_than_the_commonest_token(plain: World) -> None:
    counted = plain.knowledge.content(plain.observed)
    public = plain.knowledge.public
    texts = Observed(states=public.text_states, ids=public.text_ids, lengths=public.text_lengths)
    commonest = torch.bincount(public.text_ids[plain.knowledge.content(texts)]).argmax()
    share = float((plain.observed.ids[counted] == commonest).float().mean())
    assert guess(plain.observed, plain.knowledge, EFFORT).top1 > share - 0.03


def test_states_that_say_nothing_leave_the_floor(plain: World) -> None:
    def nothing(states: torch.Tensor) -> torch.Tensor:
        return torch.randn(states.shape, generator=torch.Generator().manual_seed(len(states)))

    blank = World(
        knowledge=replace(plain.knowledge, codec=nothing),
        observed=replace(plain.observed, states=nothing(plain.observed.states)),
    )
    floor = guess(plain.observed, plain.knowledge, EFFORT).top1
    assert abs(reading(blank).top1 - floor) < 0.06


def test_a_token_that_public_text_lacks_ranks_after_all_that_it_has(plain: World) -> None:
    public = plain.knowledge.public
    few = PublicBottom(public.segment, public.split, frame=FRAME, text=[[1, 5, 6, 2], [1, 6, 7, 2], [1, 5, 5, 2]])
    other = replace(plain.observed, ids=torch.full_like(plain.observed.ids, 9))
    row = guess(other, Knowledge(public=few), EFFORT)
    assert (row.top1, row.rank) == (0.0, 4.0)  # after 5, 6 and 7
