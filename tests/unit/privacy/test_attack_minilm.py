"""The yardstick: on the packaged pretrained model the attacks must succeed, or low figures would mean nothing."""

import pytest
from attack_worlds import World, seen, under_turn

from elsa.data.probes import public_probes
from elsa.model.weights import Checkpoint
from elsa.privacy.audit.complement import anchored
from elsa.privacy.audit.known import known_texts
from elsa.privacy.audit.matching import Prototypes
from elsa.privacy.audit.nearest import nearest
from elsa.privacy.audit.observed import Knowledge
from elsa.privacy.audit.public import PublicBottom
from elsa.spec import Split

PRIVATE = (
    "The patient was given two hundred milligrams on Tuesday and sent home.",
    "Please transfer the remaining balance to my savings account before Friday.",
    "Our warehouse in Antwerp is short of winter tyres again.",
    "Her appeal against the verdict will be heard in the spring.",
    "The night shift found a crack in the third turbine blade.",
    "Can you tell me how old the youngest applicant is?",
    "The cooperative voted to plant barley on the northern slope.",
    "His new telephone number ends with four and seven.",
)


@pytest.fixture(scope="module")
def plain() -> World:
    split = Split(bottom=1, trunk=4, top=1)
    checkpoint = Checkpoint.open("minilm")
    bottom = PublicBottom.open(checkpoint, split, public_probes(), task="classification")
    rows = checkpoint.tokenizer()(list(PRIVATE))["input_ids"]
    return World(knowledge=Knowledge(public=bottom), observed=seen(bottom, rows))


def test_nearest_neighbour_reads_minilm_behind_one_block(plain: World) -> None:
    found = nearest(plain.observed, plain.knowledge, Prototypes.of(plain.knowledge))
    assert found.top1 > 0.85
    assert found.rank == 1


def test_turn_of_half_the_width_hides_nothing_on_minilm(plain: World) -> None:
    hidden = under_turn(plain, 192)
    known = (hidden.observed, hidden.knowledge, Prototypes.of(hidden.knowledge))
    assert nearest(*known).top1 < 0.1
    assert anchored(*known).top1 > 0.85


def test_two_known_texts_open_a_turn_of_the_full_width_on_minilm(plain: World) -> None:
    hidden = under_turn(plain, 384)
    assert known_texts(hidden.observed, hidden.knowledge, Prototypes.of(hidden.knowledge), 2).top1 > 0.85
