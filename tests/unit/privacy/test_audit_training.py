"""The audit trains as a run does: with rows that are kept, under the client's protection, and says what it took."""

import pytest
import torch
from tiny_models import LABELS, VOCABULARY

from elsa.data.encoding import EncodedData, EncodedRow
from elsa.model.weights import Checkpoint
from elsa.privacy.audit.cut import Cut
from elsa.privacy.audit.utility import train
from elsa.spec import RunSpec
from elsa.train.rehearsal import Rehearsal, Sides
from elsa.train.session import Position, TrunkSession

ROWS, BATCH, EPOCH = 24, 8, 3
WIDTH = 64
FIELDS = {"hidden_size": WIDTH, "intermediate_size": 64}


def rows(count: int, seed: int) -> EncodedData:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(3, VOCABULARY, (int(torch.randint(4, 12, (), generator=draw)),), generator=draw).tolist()
        made.append(EncodedRow(ids=ids, types=[0] * len(ids), labels=ids[0] % LABELS))
    return EncodedData(rows=made, pad_id=0)


@pytest.fixture(scope="module")
def folder(make_folder):
    return str(make_folder("bert", "classification", FIELDS))


def trained(folder, steps, watched=2 * BATCH, training=None, **parts):
    spec = spec_of(folder, training, **parts)
    public = torch.randn(80, WIDTH, generator=torch.Generator().manual_seed(1))
    cut = Cut(spec=spec, public=public)
    return train(cut, Checkpoint.open(folder), rows(ROWS, 0), rows(8, 1), steps=steps, watched=watched)


def spec_of(folder, training=None, **parts):
    raw = {
        "model": {"source": folder, "max_tokens": 16},
        "data": {"labels": [f"label {number}" for number in range(LABELS)]},
        "lora": {"rank": 2},
        "split": {"bottom": 1, "top": 1},
        "training": {"batch": BATCH, **(training or {})},
    }
    return RunSpec.model_validate({**raw, **parts})


def up_of_epochs(folder, **parts):
    """Bytes up in the first epoch, and in the second."""
    first = trained(folder, EPOCH, **parts).up_bytes * EPOCH
    return first, trained(folder, 2 * EPOCH, **parts).up_bytes * 2 * EPOCH - first


def test_under_thrifty_a_second_epoch_sends_no_h1(folder):
    plain = dict.fromkeys(("h1", "h2", "dh2", "dh1", "change"), "none")  # no calibration, which an epoch pays once
    first, second = up_of_epochs(folder, preset="thrifty", codecs=plain)
    assert 0.45 * first < second < 0.55 * first, "gradients alone go up"
    first, second = up_of_epochs(folder, preset="thrifty", codecs=plain, reuse={"enabled": False})
    assert second > 0.95 * first


def test_with_its_own_codecs_thrifty_sends_less_in_a_second_epoch_than_without_reuse(folder):
    _, kept = up_of_epochs(folder, preset="thrifty")
    _, again = up_of_epochs(folder, preset="thrifty", reuse={"enabled": False})
    assert kept < 0.6 * again


@pytest.mark.parametrize(("watched", "parts"), [(2 * BATCH, 1), (BATCH + 2, 1), (BATCH + 2, 4), (BATCH + 1, 3)])
def test_what_was_seen_belongs_to_the_rows_that_it_is_scored_by(folder, watched, parts):
    run = trained(folder, EPOCH, watched, {"micro_batches": parts}, preset="none")
    assert len(run.seen) == 2 * parts
    assert sum(len(exchange.lengths) for exchange in run.seen) == len(run.labels) == 2 * BATCH
    assert sum(len(exchange.h2) for exchange in run.seen) == len(run.ids)
    assert [length for exchange in run.seen for length in exchange.lengths] == [
        length for batch in run.kept for length in batch.lengths
    ]


@pytest.mark.parametrize("renew", ["run", "step"])
def test_a_keyed_turn_changes_nothing_that_is_learned(folder, renew):
    turned = trained(folder, EPOCH, preset="none", privacy={"ssop": {"rank": 4, "edge": "keyed", "renew": renew}})
    plain = trained(folder, EPOCH, preset="none")
    for one, other in zip(turned.seen, plain.seen, strict=True):
        torch.testing.assert_close(one.h2, other.h2, atol=1e-4, rtol=0)
    blind = trained(folder, EPOCH, preset="none", privacy={"ssop": {"rank": 4, "edge": "blind"}})
    assert (blind.seen[0].h2 - plain.seen[0].h2).abs().max() > 1e-2


def test_a_run_s_dropout_is_the_trunk_s_too(folder):
    def twice_forward(dropout):
        spec = spec_of(folder, {"dropout": dropout}, preset="none")
        sides = Sides.of(spec, Checkpoint.open(folder))
        made = Rehearsal(spec, sides, torch.randn(80, WIDTH)).session(TrunkSession)
        values = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
        return [made.forward(Position(step=0, micro_batch=number), values, [5]) for number in range(2)]

    assert torch.equal(*twice_forward(False))
    assert not torch.equal(*twice_forward(True))
