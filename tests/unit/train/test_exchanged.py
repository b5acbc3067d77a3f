"""Training behind codecs, turns and kept rows equals training without, where it is to."""

import pytest
from exchange_twins import HALF, assert_near, codecs_of, ends_of, epochs, exchanged, locally
from split_twins import SPLITS, batches_of, equal, model_of
from test_ssop_training import KEY, basis_of

from elsa.privacy.turns import Turns

FAMILIES = [("bert", "classification"), ("llama", "causal-lm")]
CODED = {
    "h1": "subspace(ratio=2) | int4",
    "h2": "subspace(ratio=2) | int4",
    "dh2": "subspace(ratio=4) | int8",
    "dh1": "topk(fraction=0.5) | int8",
    "change": "int8",
}


@pytest.fixture(params=FAMILIES, ids=lambda pair: pair[0])
def model(request, make_folder):
    family, task = request.param
    return model_of(make_folder(family, task), task)


@pytest.fixture
def bert(make_folder):
    return model_of(make_folder("bert", "classification"), "classification")


def same(got, want):
    assert got.losses == want.losses
    assert equal(got.tensors, want.tensors)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("window", [1, 3])
def test_without_codecs_it_is_local_training_to_the_bit(model, split, window):
    batches = batches_of(model.task)
    got = exchanged(model, batches, ends_of(codecs_of(), split), split=split, micro_batches=3, window=window)
    same(got, locally(model, batches, split=split, micro_batches=3, window=window))


@pytest.mark.parametrize("each_step", [False, True])
def test_with_a_keyed_turn_it_is_local_training_nearly(model, each_step):
    batches = batches_of(model.task)
    turns = Turns(KEY, basis_of(model.client(HALF), HALF, batches), 1, renew_each_step=each_step)
    got = exchanged(model, batches, ends_of(codecs_of()), turn=turns, keyed=True)
    assert_near(got, locally(model, batches))


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_with_a_frozen_bottom_kept_rows_change_no_bit(model, codec, monkeypatch):
    codecs, rows = codecs_of(h1=codec, h2=codec, dh2=codec), 8
    batches = list(epochs(model.task, 3, shuffled=False))  # in other company a row is padded otherwise: 1e-7 in h1
    got = exchanged(
        model,
        batches,
        ends_of(codecs, reuse=True, frozen=True),
        frozen=True,
        monkeypatch=monkeypatch,
    )
    want = exchanged(model, batches, ends_of(codecs), frozen=True)
    same(got, want)
    assert sum(sum(forms.values()) for forms in got.forms) == 3 * rows
    assert all(set(forms) == {"whole"} for forms in got.forms[:4])
    assert all(set(forms) == {"kept"} for forms in got.forms[4:]), "later epochs send no h1"
    assert got.bottom_rows == [4, 4, 0, 0, 0, 0], "nor is the bottom run for it"
    assert max(got.h1_bytes[2:]) < 80 < 300 < min(want.h1_bytes)


def test_kept_rows_in_other_company_change_hardly_a_bit(model):
    got = exchanged(model, epochs(model.task, 3), ends_of(codecs_of(), reuse=True, frozen=True), frozen=True)
    assert_near(got, locally(model, epochs(model.task, 3), frozen=True))


def test_a_frozen_bottom_is_sent_no_gradient(bert):
    frozen = exchanged(bert, epochs(bert.task), ends_of(codecs_of()), frozen=True)
    trained = exchanged(bert, epochs(bert.task), ends_of(codecs_of()))
    assert all(one < 0.6 * other for one, other in zip(frozen.down, trained.down, strict=True))


def test_with_a_trained_bottom_exact_changes_change_hardly_a_bit(model):
    got = exchanged(model, epochs(model.task, 3), ends_of(codecs_of(), reuse=True))
    assert_near(got, locally(model, epochs(model.task, 3)))
    assert all(set(forms) == {"change"} for forms in got.forms[4:])


def test_a_threshold_skips_rows_that_moved_little(bert):
    got = exchanged(bert, epochs(bert.task, 4), ends_of(codecs_of(), reuse=True, threshold=0.9))
    assert all(set(forms) == {"kept"} for forms in got.forms[4:])
    some = exchanged(bert, epochs(bert.task, 4), ends_of(codecs_of(), reuse=True, threshold=0.05))
    assert {"kept", "change"} <= set().union(*some.forms[4:])


def test_coded_changes_do_not_add_up_to_a_drift(bert):
    codecs = codecs_of(h1="int8", change="int4")
    ends = ends_of(codecs, reuse=True)
    exchanged(bert, epochs(bert.task, 8), ends)
    mine, theirs = ends[0].rows._kept, ends[1].rows._kept
    assert len(mine) == len(theirs) == 8
    for row in range(8):
        assert (mine.get(row)[1][0] == theirs.get(row)[1][0]).all(), "both ends hold the same of a row"


def test_an_edge_without_room_is_sent_rows_whole_and_nothing_else_changes(bert):
    codecs = codecs_of(h1="int8")
    got = exchanged(bert, epochs(bert.task, 3), ends_of(codecs, reuse=True, frozen=True, room=100), frozen=True)
    same(got, exchanged(bert, epochs(bert.task, 3), ends_of(codecs), frozen=True))
    assert sum(forms["whole"] for forms in got.forms[4:]) > 0


def test_the_next_session_goes_on_with_the_same_rows_and_calibrations(bert):
    ends = ends_of(codecs_of(**CODED), reuse=True, frozen=False)
    batches = list(epochs(bert.task, 6))
    first = exchanged(bert, batches, ends)
    names = ends[0].calibrations, ends[1].calibrations
    assert names[0] and names[1]
    second = exchanged(bert, batches[:2], ends)
    assert all(set(forms) == {"change"} for forms in second.forms)
    assert (ends[0].calibrations, ends[1].calibrations) == names, "nothing is attached again"
    assert second.down[0] < max(first.down)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_coded_training_of_any_split_and_task_comes_near(model, split):
    batches = list(epochs(model.task, 6))
    got = exchanged(model, batches, ends_of(codecs_of(**CODED), split, reuse=True), split=split)
    want = locally(model, batches, split=split)
    assert abs(sum(got.losses[-4:]) - sum(want.losses[-4:])) < 0.25 * sum(want.losses[-4:])
