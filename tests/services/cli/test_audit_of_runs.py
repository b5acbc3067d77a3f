"""An audit over several seeds holds one trained model at a time, and attacks what is sent first and last."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from elsa.data.encoding import EncodedData, EncodedRow
from elsa.model.weights import Checkpoint
from elsa.privacy.audit import audit
from elsa.privacy.audit.audit import Audit, Material
from elsa.privacy.audit.observed import Recovery
from elsa.privacy.audit.public import PublicBottom
from elsa.privacy.audit.settings import Setting
from elsa.spec import RunSpec, SplitSpec

FOUND = Recovery(attack="A0 nearest neighbour", top1=0.5, rank=2, tokens=4)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def job(tiny_bert):
    """An audit of three seeds that attacks nothing."""
    rows = [[2, 5 + number % 7, 9, 3] for number in range(24)]
    data = EncodedData(
        rows=[EncodedRow(ids=ids, types=[0] * 4, labels=place % 2) for place, ids in enumerate(rows)], pad_id=0
    )
    raw = {
        "preset": "none",
        "model": {"source": str(tiny_bert), "max_tokens": 16},
        "data": {"labels": ["low", "high", "mid"]},
        "training": {"batch": 8},
    }
    return Audit(
        base=RunSpec.model_validate(raw),
        checkpoint=Checkpoint.open(str(tiny_bert)),
        material=Material(train=data, heldout=data, attacked=rows[:4], public=rows[4:]),
        attack=lambda observed, knowledge: [FOUND],
        blind=lambda observed, knowledge: replace(FOUND, attack="floor"),
        steps=2,
        seeds=3,
    )


def test_models_of_all_seeds_are_never_held_at_once(job, monkeypatch):
    made, held, real = [], [], audit.train

    def train(*args, **options):
        gc.collect()
        held.append(sum(each() is not None for each in made))
        trained = real(*args, **options)
        made.append(weakref.ref(trained.sides))
        return trained

    monkeypatch.setattr(audit, "train", train)
    found = job.run(Setting(name="plain"))
    assert held == [0, 1, 1]  # the first is kept, to be attacked
    assert len(found.accuracies) == 3
    assert all(0 <= accuracy <= 1 for accuracy in found.accuracies)


@pytest.mark.parametrize("trains", [True, False])
def test_states_of_a_bottom_that_is_trained_are_attacked_as_training_begins_too(job, trains):
    """A bottom that learns to hide has hidden nothing of the rows that it sent before."""
    attacked = []

    def attack(observed, knowledge):
        attacked.append(observed.states)
        return [FOUND]

    found = replace(job, attack=attack, seeds=1).run(Setting(name="plain", bottom_adapters=trains))
    named = [row.attack for row in found.tokens if row.attack.startswith("A0")]
    assert named == ["A0 nearest neighbour", "A0 nearest neighbour, as training begins"][: 1 + trains]
    first = PublicBottom.open(job.checkpoint, SplitSpec().of(job.blocks), ["w1"], task="classification")
    assert torch.equal(attacked[-1], first.states(job.material.attacked))
    if trains:
        assert not torch.equal(attacked[0], attacked[1])


def test_rows_that_travel_before_there_is_a_calibration_are_attacked_too(job):
    narrow = {"h1": "subspace(k=2)"}
    for public, times in ((False, 2), (True, 1)):
        setting = Setting(name="narrow", codecs=narrow, privacy={"public_calibration": public}, bottom_adapters=False)
        found = replace(job, seeds=1).run(setting)
        assert len([row for row in found.tokens if row.attack.startswith("A0")]) == times
