"""Laws of the attacks on h1: they succeed where nothing is hidden, and knowing more is never worse."""

import itertools
from dataclasses import replace

import pytest
import torch
from attack_worlds import FRAME, SPLIT, WIDTH, World, orthogonal, seen, under_turn, world
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.errors import InputError
from elsa.privacy.audit.ciphertext import ciphertext_only
from elsa.privacy.audit.complement import anchored, complement
from elsa.privacy.audit.inverter import Effort, learned
from elsa.privacy.audit.known import known_texts
from elsa.privacy.audit.ladder import ladder
from elsa.privacy.audit.matching import Prototypes, affine, whitener
from elsa.privacy.audit.nearest import nearest
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery, strongest
from elsa.privacy.audit.procrustes import Pairs, complement_of, procrustes
from elsa.privacy.audit.public import Frame, PublicBottom

SLACK = 0.03
QUICK = Effort(keys=8, lesson_tokens=512, epochs=6)


@pytest.fixture(scope="module")
def plain(make_folder) -> World:
    return world(make_folder("bert", "classification"))


def prototypes(of: World) -> Prototypes:
    return Prototypes.of(of.knowledge)


def test_nearest_neighbour_reads_unprotected_states(plain: World) -> None:
    assert nearest(plain.observed, plain.knowledge, prototypes(plain)).top1 > 0.95


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nearest_neighbour_reads_decoders_whose_texts_have_no_end(make_folder, family: str) -> None:
    open_ended = world(make_folder(family, "classification"), frame=Frame(begin=(1,)))
    assert nearest(open_ended.observed, open_ended.knowledge, prototypes(open_ended)).top1 > 0.85


def test_learned_inverter_reads_unprotected_states(plain: World) -> None:
    assert learned(plain.observed, plain.knowledge, prototypes(plain), QUICK).top1 > 0.95


def test_learned_inverter_gains_on_the_matcher_where_a_codec_is_not_linear(plain: World) -> None:
    middle = plain.knowledge.public.text_states.mean(0)
    bent = World(
        knowledge=replace(plain.knowledge, codec=lambda states: (states - middle).abs()),
        observed=replace(plain.observed, states=(plain.observed.states - middle).abs()),
    )
    linear = nearest(bent.observed, bent.knowledge, prototypes(bent)).top1
    effort = Effort(keys=24, lesson_tokens=1024, epochs=10)
    assert learned(bent.observed, bent.knowledge, prototypes(bent), effort).top1 > linear + 0.05


def test_full_turn_defeats_nearest_neighbour(plain: World) -> None:
    hidden = under_turn(plain, WIDTH)
    assert nearest(hidden.observed, hidden.knowledge, prototypes(hidden)).top1 < 0.4


@pytest.mark.parametrize("rank", [4, 8])
def test_complement_and_its_anchors_beat_nearest_neighbour_under_a_turn(plain: World, rank: int) -> None:
    hidden = under_turn(plain, rank)
    known = (hidden.observed, hidden.knowledge, prototypes(hidden))
    naive, beside, undone = nearest(*known).top1, complement(*known).top1, anchored(*known).top1
    assert naive + 0.2 < beside
    assert beside - SLACK <= undone
    assert undone > 0.95


def test_more_known_texts_are_never_worse(plain: World) -> None:
    hidden = under_turn(plain, WIDTH)
    shares = [known_texts(hidden.observed, hidden.knowledge, prototypes(hidden), n).top1 for n in (1, 4, 16)]
    assert all(more >= fewer - SLACK for fewer, more in itertools.pairwise(shares))
    assert shares[-1] > 0.95


def test_known_texts_are_not_counted(plain: World) -> None:
    hidden = under_turn(plain, WIDTH)
    row = known_texts(hidden.observed, hidden.knowledge, prototypes(hidden), 10)
    assert row.tokens == int(hidden.knowledge.content(hidden.observed.after(10)).sum())


def test_ciphertext_only_finds_the_turn_with_many_texts_and_not_with_few(make_folder) -> None:
    hidden = under_turn(world(make_folder("bert", "classification"), observed=300), WIDTH)
    known = (hidden.observed, hidden.knowledge, prototypes(hidden))
    few, many = ciphertext_only(*known, 2), ciphertext_only(*known, 300)
    assert many.top1 > 0.9
    assert few.top1 < many.top1 - 0.3


def test_no_attack_reads_the_truth(plain: World) -> None:
    """With the ids of the texts replaced, the guesses cannot follow: all fall to chance."""
    other = torch.randint(3, 40, plain.observed.ids.shape, generator=torch.Generator().manual_seed(5))
    lied = under_turn(World(knowledge=plain.knowledge, observed=replace(plain.observed, ids=other)), 8)
    rows = ladder(lied.observed, lied.knowledge, known=(), under_one_key=(40,), effort=QUICK)
    assert max(row.top1 for row in rows) < 0.2


def test_ladder_runs_what_applies(plain: World) -> None:
    told: list[str] = []
    rows = ladder(plain.observed, plain.knowledge, effort=QUICK, progress=told.append)
    assert (
        [row.attack for row in rows] == told == ["A0 nearest neighbour", "A4 learned inverter", "A4 learned reader"]
    )
    hidden = under_turn(plain, 4)
    rows = ladder(hidden.observed, hidden.knowledge, known=(1, 64), under_one_key=(16, 800), effort=QUICK)
    assert [row.attack for row in rows] == [
        "A0 nearest neighbour",
        "A1 complement",
        "A1 self-anchored",
        "A2 known plaintext, 1",
        "A3 ciphertext only, 16",
        "A3 ciphertext only, 40",
        "A4 learned inverter",
        "A4 learned reader",
    ]


def test_special_tokens_are_not_counted(plain: World) -> None:
    row = nearest(plain.observed, plain.knowledge, prototypes(plain))
    framed = (len(FRAME.begin) + len(FRAME.end)) * len(plain.observed.lengths)
    assert row.tokens == len(plain.observed.ids) - framed


@settings(max_examples=25, deadline=None)
@given(rank=st.integers(2, 12), extra=st.integers(0, 20), seed=st.integers(0, 1000))
def test_procrustes_recovers_a_rotation_from_enough_pairs(rank: int, extra: int, seed: int) -> None:
    rotation = orthogonal(rank, seed)
    points = torch.randn(2 * rank + extra, rank, generator=torch.Generator().manual_seed(seed))
    estimate = procrustes(torch.eye(rank), Pairs(plain=points, turned=points @ rotation))
    torch.testing.assert_close(estimate.back, rotation.T, rtol=0, atol=1e-4)
    assert estimate.seen is None


@settings(max_examples=25, deadline=None)
@given(rank=st.integers(3, 12), seed=st.integers(0, 1000))
def test_procrustes_claims_no_more_than_few_pairs_span(rank: int, seed: int) -> None:
    rotation = orthogonal(rank, seed)
    points = torch.randn(rank - 1, rank, generator=torch.Generator().manual_seed(seed))
    estimate = procrustes(torch.eye(rank), Pairs(plain=points, turned=points @ rotation))
    assert round(float(estimate.known.trace())) == rank - 1
    torch.testing.assert_close(estimate.unturned(points @ rotation), points, rtol=0, atol=1e-3)


def test_affine_map_is_found_from_enough_states() -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.randn(500, 6, generator=draw)
    slope, shift = torch.randn(6, 6, generator=draw), torch.randn(6, generator=draw)
    found, moved = affine(before, before @ slope + shift)
    torch.testing.assert_close(before @ found + moved, before @ slope + shift, rtol=0, atol=1e-2)


def test_strongest_row_is_that_of_the_highest_top1() -> None:
    rows = [Recovery(attack=name, top1=top1, rank=rank, tokens=9) for name, top1, rank in
            (("a", 0.1, 1.0), ("b", 0.8, 3.0), ("c", 0.8, 2.0))]  # fmt: skip
    assert strongest(rows).attack == "c"
    with pytest.raises(InputError, match="at least one"):
        strongest([])


def test_texts_without_words_are_refused(plain: World) -> None:
    bare = PublicBottom(plain.knowledge.public.segment, SPLIT, frame=FRAME, text=[[1, 2]])
    with pytest.raises(InputError, match="sentences with words"):
        Prototypes.of(Knowledge(public=bare))
    with pytest.raises(InputError, match="texts with words"):
        nearest(seen(bare, [[1, 2]]), plain.knowledge, prototypes(plain))
    with pytest.raises(InputError, match="at least one sentence"):
        PublicBottom(plain.knowledge.public.segment, SPLIT, frame=FRAME, text=[])


def test_what_does_not_fit_is_refused(plain: World) -> None:
    with pytest.raises(InputError, match="one state and one id a token"):
        Observed(states=torch.zeros(3, 2), ids=torch.zeros(3), lengths=(2,))
    with pytest.raises(InputError, match="basis of the turn"):
        complement(plain.observed, Knowledge(public=plain.knowledge.public), prototypes(plain))


def test_whitener_takes_covariances_that_rounding_left_a_little_negative() -> None:
    values = torch.tensor([1.0, 1e-9, -1e-9])
    assert bool(torch.isfinite(whitener(torch.diag(values))).all())
    nothing = whitener(torch.full((3, 3), -1e-15))
    assert bool(torch.isfinite(nothing).all())


def test_learned_inverter_and_a_full_turn_leave_no_complement(plain: World) -> None:
    hidden = under_turn(plain, WIDTH)
    assert not bool(complement_of(hidden.knowledge.basis).any())
    found = learned(hidden.observed, hidden.knowledge, prototypes(hidden), QUICK)
    assert found.top1 < 0.9
