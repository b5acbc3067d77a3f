"""Pacing: a phase takes its factor times what is computed, errors are not delayed, and texts are read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import SpecError
from services.rpc.pace import Pace, PacedWatch

FACTORS = st.floats(1, 1e6)


class Device:
    """A clock that computing, sleeping and other processes move; a sleep takes `late` seconds longer than asked."""

    def __init__(self, late=0.0):
        self.now, self.had, self.late, self.slept = 0.0, 0.0, late, []

    def clock(self):
        return self.now

    def computed(self):
        return self.had

    def compute(self, seconds):
        self.now += seconds
        self.had += seconds

    def stand_back(self, seconds):
        self.now += seconds

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds + self.late


def watch_of(factor, device):
    return PacedWatch(factor, device.clock, device.sleep, device.computed)


@given(FACTORS, st.lists(st.sampled_from(["bottom", "trunk", "top"]), max_size=8))
def test_each_phase_takes_its_factor_times_what_is_computed(factor, phases):
    device = Device()
    watch = watch_of(factor, device)
    for phase in phases:
        with watch.timing(phase):
            device.compute(0.5)
    for phase in ("bottom", "trunk", "top"):
        assert getattr(watch.seconds, phase) == pytest.approx(0.5 * factor * phases.count(phase))
    assert device.now == pytest.approx(0.5 * factor * len(phases))


def test_what_another_process_takes_is_not_multiplied():
    device = Device()
    watch = watch_of(4.0, device)
    with watch.timing("trunk"):
        device.compute(1.0)
        device.stand_back(0.5)
    assert device.slept == [3.0]
    assert watch.seconds.trunk == 4.5


def test_a_role_that_is_not_paced_never_sleeps():
    device = Device()
    watch = watch_of(1.0, device)
    with watch.timing("bottom"):
        device.compute(3.0)
    assert device.slept == []
    assert watch.seconds.bottom == 3.0


def test_what_sleeps_take_too_long_does_not_add_up():
    device = Device(late=0.1)
    watch = watch_of(2.0, device)
    for _ in range(100):
        with watch.timing("trunk"):
            device.compute(0.25)
    assert watch.seconds.trunk == pytest.approx(device.now)
    assert device.now == pytest.approx(50, abs=0.11)


def test_an_error_is_counted_and_raised_without_a_sleep():
    device = Device()
    watch = watch_of(4.0, device)
    with pytest.raises(ZeroDivisionError), watch.timing("top"):
        device.compute(1.0)
        raise ZeroDivisionError
    assert device.slept == []
    assert watch.seconds.top == 1.0


def test_what_is_added_by_hand_is_counted_as_it_is():
    watch = watch_of(4.0, Device())
    watch.add("network", 2.0)
    assert watch.seconds.network == 2.0


def test_a_factor_holds_from_its_version_on():
    pace = Pace.parse("1, 3:4, 5:2.5")
    assert [pace.at(version) for version in range(7)] == [1, 1, 1, 4, 4, 2.5, 2.5]
    assert {Pace.parse("2").at(version) for version in (0, 1, 1000)} == {2.0}
    assert Pace().at(0) == 1


@given(FACTORS, st.dictionaries(st.integers(1, 10**6), FACTORS))
def test_parse_inverts_the_text_of_a_pace(first, later):
    pace = Pace(((0, first), *sorted(later.items())))
    assert Pace.parse(str(pace)) == pace


LONG = "9" * 5000
REFUSED = [
    *("", "fast", "0.5", "-2", "nan", "inf", "1e999", "1;2", "1\n2", "2,", "2,3", "3:4", "1,x:2", "1,2:x"),
    *("1,0:2", "1,-1:2", "1,3:4,3:5", "1,5:2,3:2", "1,2:0.9", "1,2:inf", f"{LONG}:1", f"1,{LONG}:1"),
    "1" + ",2:3" * 1000,
]


@pytest.mark.parametrize("text", REFUSED)
def test_a_pace_that_cannot_be_is_refused_on_one_line_with_the_form(text):
    with pytest.raises(SpecError, match=r"^pace .*; give how many times slower, as 2") as raised:
        Pace.parse(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@given(st.text(max_size=12))
def test_any_text_is_a_pace_of_usable_factors_or_refused(text):
    try:
        pace = Pace.parse(text)
    except SpecError:
        return
    assert all(1 <= pace.at(version) < math.inf for version in range(20))
