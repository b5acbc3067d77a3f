"""Reports: what cannot be is refused by client and field, whatever can be is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import MalformedError
from elsa.v1 import adapter_pb2, split_pb2
from elsa.wire.report import MOST_BLOCKS, MOST_S, MOST_STEPS, PHASES, check_report

SECONDS = st.floats(0, MOST_S)
IMPOSSIBLE = [-1e-9, 1.01 * MOST_S, float("nan"), float("inf"), float("-inf")]


def report(**given):
    return adapter_pb2.ClientReport(client_id="ann", **given)


@given(
    seconds=st.fixed_dictionaries(dict.fromkeys(PHASES, SECONDS)),
    wall_s=SECONDS,
    steps=st.integers(0, MOST_STEPS),
    cut=st.tuples(st.integers(1, MOST_BLOCKS), st.integers(1, MOST_BLOCKS), st.integers(0, MOST_BLOCKS)),
)
def test_what_can_be_is_taken(seconds, wall_s, steps, cut):
    split = split_pb2.Split(bottom=cut[0], trunk=cut[1], top=cut[2])
    check_report(report(seconds=split_pb2.PhaseSeconds(**seconds), wall_s=wall_s, steps=steps, split=split))
    check_report(report())  # a split that is not said


def test_phases_are_all_that_the_message_has():
    assert list(PHASES) == [field.name for field in split_pb2.PhaseSeconds.DESCRIPTOR.fields]


@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_that_is_no_time_is_refused(phase, value):
    with pytest.raises(MalformedError, match=rf"reports\.seconds\.{phase} of ann: .* it must be from 0 to 1e\+09"):
        check_report(report(seconds=split_pb2.PhaseSeconds(**{phase: value})))


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_a_round_that_took_no_time_is_refused(value):
    with pytest.raises(MalformedError, match=r"reports\.wall_s of ann"):
        check_report(report(wall_s=value))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused(loss):
    with pytest.raises(MalformedError, match=r"reports\.loss of ann"):
        check_report(report(loss=loss))


def test_more_steps_than_any_run_has_are_refused():
    with pytest.raises(MalformedError, match=r"reports\.steps of ann: 100001; it must be at most 100000"):
        check_report(report(steps=MOST_STEPS + 1))


@pytest.mark.parametrize(
    ("part", "cut"),
    [
        ("bottom", (0, 3, 1)),
        ("bottom", (2**32 - 1, 3, 1)),
        ("trunk", (1, 0, 1)),
        ("trunk", (1, MOST_BLOCKS + 1, 1)),
        ("top", (1, 3, MOST_BLOCKS + 1)),
    ],
)
def test_a_split_that_cannot_be_is_refused(part, cut):
    split = split_pb2.Split(bottom=cut[0], trunk=cut[1], top=cut[2])
    with pytest.raises(MalformedError, match=rf"reports\.split\.{part} of ann"):
        check_report(report(split=split))
