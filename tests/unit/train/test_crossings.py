"""Laws of the seconds that a step's tensors take at either end, by an exact clock."""

import itertools

import pytest
import torch

from elsa.errors import SpecError
from elsa.spec import RunSpec
from elsa.train import crossings
from elsa.train.crossings import crossing_seconds
from elsa.train.phases import Stopwatch

WIDTH = 32
ROWS = [5, 7, 6]


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
def test_each_side_counts_its_own_crossings_and_rests_before_each(parts):
    """A client's are four, an edge's two: what comes and what goes is one piece of work there."""
    for side, pieces in (("client", 4), ("edge", 2)):
        rests = itertools.count()
        assert crossing_seconds(run_of(**parts), WIDTH, ROWS, side, ticking(), rests.__next__) == pieces
        assert next(rests) == pieces * crossings.REPEATS


@pytest.mark.parametrize("codec", ["subspace(k=96) | int4", "sketch(ratio=4, decode=mmse) | int8"])
def test_what_is_learned_first_is_not_counted(codec):
    """However short the run's own steps are: what is sent is calibrated by then, and stays so."""
    made = crossings._Crossings(run_of(codecs={"h1": codec, "h2": codec, "dh2": codec, "dh1": codec}), 256)
    for _ in range(crossings.LEARNING):
        made.step([32] * 4, Stopwatch(), Stopwatch())
    before = (made.client.calibrations, made.edge.calibrations)
    assert len(before[0]) == len(before[1]) == 2
    for _ in range(2 * crossings.REPEATS):
        made.step([8] * 4, Stopwatch(), Stopwatch())
    assert (made.client.calibrations, made.edge.calibrations) == before


def test_no_random_number_of_the_run_is_drawn():
    before = torch.random.get_rng_state()
    crossing_seconds(run_of(), WIDTH, ROWS, "edge", ticking())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_codecs_that_do_not_fit_are_named():
    with pytest.raises(SpecError, match="int4"):
        crossing_seconds(run_of(codecs={"h1": "int4"}), 33, ROWS, "client", ticking())
