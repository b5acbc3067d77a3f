"""Token buckets and open streams: what each identity may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import CapacityError, SpecError
from services.rpc.identity import Identity
from services.rpc.rates import LEAST_SWEPT, ROUNDING_S, Buckets, RateLimits, Rates

ONE, TWO = Identity("client", "one"), Identity("client", "two")
PAUSES = st.lists(
    st.tuples(st.floats(0, 3, allow_nan=False), st.floats(0.01, 20, allow_nan=False)), min_size=1, max_size=60
)
PER_S = st.floats(0.1, 100, allow_nan=False)
BURST = st.floats(1, 50, allow_nan=False)


class Clock:
    """Stands still until it is set on."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def taken(buckets, asked, who=ONE, start_s=1000.0):
    """When how many tokens were given, of (pause, tokens) asked for."""
    now_s, given_at = start_s, []
    for pause_s, tokens in asked:
        now_s += pause_s
        if not buckets.take(who, tokens, now_s):
            given_at.append((now_s, tokens))
    return given_at


@given(PAUSES, PER_S, BURST)
def test_no_window_sees_more_than_the_burst_and_what_came_meanwhile(asked, per_s, burst):
    given_at = taken(Buckets(per_s, burst), asked)
    for first, (begin_s, _) in enumerate(given_at):
        total = 0.0
        for end_s, tokens in given_at[first:]:
            total += tokens
            assert total <= (burst + per_s * (end_s - begin_s + ROUNDING_S)) * (1 + 1e-9)


@given(PAUSES, PER_S, BURST)
def test_a_bucket_gives_its_burst_again_once_it_had_the_time_to_fill(asked, per_s, burst):
    buckets = Buckets(per_s, burst)
    taken(buckets, asked)
    end_s = 1000.0 + sum(pause_s for pause_s, _ in asked)
    assert not buckets.take(ONE, burst, end_s + burst / per_s)
    assert buckets.take(ONE, 2 * per_s * ROUNDING_S, end_s + burst / per_s)


@given(PAUSES, PER_S, BURST)
def test_what_is_refused_is_given_after_the_wait_that_was_told(asked, per_s, burst):
    buckets = Buckets(per_s, burst)
    now_s = 1000.0
    for pause_s, tokens in asked:
        now_s += pause_s
        if tokens <= burst and (wait_s := buckets.take(ONE, tokens, now_s)):
            assert wait_s < 4 * ROUNDING_S or buckets.take(ONE, tokens, now_s + wait_s / 2)
            now_s += wait_s
            assert not buckets.take(ONE, tokens, now_s)


@given(PAUSES, PAUSES, PER_S, BURST)
def test_identities_do_not_touch_each_other(asked, others, per_s, burst):
    alone, shared = Buckets(per_s, burst), Buckets(per_s, burst)
    expected = taken(alone, asked)
    now_s, found = 1000.0, []
    for turn, (pause_s, tokens) in enumerate(asked):
        now_s += pause_s
        if turn < len(others):
            shared.take(TWO, others[turn][1], now_s)
        if not shared.take(ONE, tokens, now_s):
            found.append((now_s, tokens))
    assert found == expected


def test_identities_of_one_name_and_two_roles_do_not_touch_each_other():
    buckets = Buckets(1, 1)
    assert not buckets.take(Identity("client", "a"), 1, 0)
    assert not buckets.take(Identity("edge", "a"), 1, 0)
    assert buckets.take(Identity("edge", "a"), 1, 0)


def test_buckets_that_are_full_again_are_forgotten():
    buckets = Buckets(per_s=10, burst=5)
    for number in range(20 * LEAST_SWEPT):
        assert not buckets.take(Identity("client", f"c{number}"), 1, number / 100)
    assert len(buckets) <= LEAST_SWEPT + 1


def test_a_bucket_that_is_not_full_is_never_forgotten():
    buckets = Buckets(per_s=0.001, burst=1)
    assert not buckets.take(ONE, 1, 0)
    for number in range(3 * LEAST_SWEPT):
        buckets.take(Identity("client", f"c{number}"), 1, number / 1e4)
    assert buckets.take(ONE, 1, 1)


def test_too_many_calls_are_refused_with_the_seconds_to_wait():
    clock = Clock()
    rates = Rates(RateLimits(calls_per_s=2, calls_burst=3), clock)
    for _ in range(3):
        rates.call(ONE)
    with pytest.raises(CapacityError, match=r"client one calls more than 2 times a second; ask again in 0\.5 s"):
        rates.call(ONE)
    rates.call(TWO)
    clock.now_s += 0.5
    rates.call(ONE)


def test_too_many_new_streams_are_refused_though_few_are_open():
    clock = Clock()
    rates = Rates(RateLimits(streams_per_s=1, streams_burst=2), clock)
    for _ in range(2):
        rates.open_stream(ONE)
        rates.close_stream(ONE)
    with pytest.raises(CapacityError, match=r"more than 1 streams a second; ask again in 1 s"):
        rates.open_stream(ONE)
    clock.now_s += 1
    rates.open_stream(ONE)


def test_a_stream_that_closes_makes_room_for_one():
    rates = Rates(RateLimits(open_streams=2))
    rates.open_stream(ONE)
    rates.open_stream(ONE)
    with pytest.raises(CapacityError, match="has 2 streams open"):
        rates.open_stream(ONE)
    rates.open_stream(TWO)
    rates.close_stream(ONE)
    rates.open_stream(ONE)


def test_streams_that_are_refused_do_not_count_as_open():
    clock = Clock()
    rates = Rates(RateLimits(streams_per_s=1, streams_burst=1, open_streams=2), clock)
    rates.open_stream(ONE)
    for _ in range(5):
        with pytest.raises(CapacityError):
            rates.open_stream(ONE)
    clock.now_s += 1
    rates.open_stream(ONE)


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.sampled_from([ONE, TWO]))))
def test_nobody_holds_more_threads_than_its_share_whatever_others_hold(most, steps):
    rates, held = Rates(), {ONE: 0, TWO: 0}
    rates.hold_threads_to(most)
    for begins, who in steps:
        if begins and held[who] == most:
            with pytest.raises(CapacityError, match=f"holds {most} threads"):
                rates.hold_thread(who)
        elif begins:
            rates.hold_thread(who)
            held[who] += 1
        elif held[who]:
            rates.free_thread(who)
            held[who] -= 1


def test_bytes_beyond_the_limit_wait_for_those_before():
    clock = Clock()
    rates = Rates(RateLimits(request_bytes_per_s=1 << 20, request_bytes_burst=1 << 20), clock)
    rates.message(ONE, 1 << 20)
    assert rates.pause_s(ONE, 1 << 19) == pytest.approx(0.5)
    with pytest.raises(CapacityError, match=r"sends more than .* bytes a second; ask again in 0\.5 s"):
        rates.message(ONE, 1 << 19)
    clock.now_s += 0.5
    assert rates.pause_s(ONE, 1 << 19) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("calls_per_s", 0),
        ("calls_burst", 0),
        ("streams_per_s", float("nan")),
        ("request_bytes_per_s", float("inf")),
        ("open_streams", 0),
        ("request_bytes_burst", (1 << 20) - 1),
    ],
)
def test_limits_that_let_nothing_through_are_refused(field, value):
    with pytest.raises(SpecError, match=field):
        RateLimits(**{field: value})
