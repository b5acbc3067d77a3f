"""Laws of the seconds that a step's tensors take at either end, by an exact clock."""

import itertools

import pytest
import torch

from elsa.errors import SpecError
from elsa.spec import RunSpec
from elsa.train import crossings
from elsa.train.crossings import crossing_seconds

WIDTH = 32
ROWS = [[5, 7], [6]]


def run_of(**parts):
    return RunSpec.model_validate({"data": {"labels": ["a", "b"]}, **parts})


def ticking():
    """A clock that goes on by a second whenever it is asked."""
    return itertools.count().__next__


KINDS = [
    {"codecs": {"h1": "none", "h2": "none"}},
    {"codecs": {"h1": "subspace(k=8) | int4", "h2": "sketch(ratio=4, decode=mmse) | int8"}},
    {"reuse": {"enabled": True}},
    {"lora": {"bottom_adapters": False}},
]


@pytest.mark.parametrize("parts", KINDS, ids=str)
def test_each_side_counts_its_own_crossings_of_each_micro_batch(parts):
    """A client's are four, an edge's two: what comes and what goes is one piece of work there."""
    taken = crossing_seconds(run_of(**parts), WIDTH, ROWS, ticking())
    assert (taken.client_s, taken.edge_s) == (2 * 4, 2 * 2)


def test_what_is_learned_first_is_not_counted(monkeypatch):
    """Codecs that learn from what passes have learned by then: no step that counts makes a calibration."""
    monkeypatch.setattr(crossings, "REPEATS", 0)
    made = crossings._Crossings(run_of(codecs={"h1": "subspace(k=8) | int4", "h2": "int8"}), WIDTH, ticking())
    for _ in range(crossings.CALIBRATING):
        made.step([[20] * 4])
    before = (made._client.calibrations, made._edge.calibrations)
    for _ in range(16):
        made.step([[20] * 4])
    assert (made._client.calibrations, made._edge.calibrations) == before
    assert any(before[1])


def test_no_random_number_of_the_run_is_drawn():
    before = torch.random.get_rng_state()
    crossing_seconds(run_of(), WIDTH, ROWS, ticking())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_codecs_that_do_not_fit_are_named():
    with pytest.raises(SpecError, match="int4"):
        crossing_seconds(run_of(codecs={"h1": "int4"}), 33, ROWS, ticking())
