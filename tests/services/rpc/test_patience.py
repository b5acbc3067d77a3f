"""Waiting for a peer: growing pauses, a limit, and no patience with other errors."""

import logging

import pytest

from elsa.errors import DrainingError, HandshakeError, MalformedError, UnreachableError
from services.rpc.channel import patiently


class Time:
    """A clock that only its sleep moves."""

    def __init__(self):
        self.now, self.pauses = 100.0, []

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def clock(self):
        return self.now


def failing(times, error):
    """A call that fails so many times, then answers with their number."""
    made = []

    def call():
        made.append(None)
        if len(made) <= times:
            raise error
        return len(made)

    return call


def wait(call, time, **more):
    return patiently(call, "cloud c:1", sleep=time.sleep, clock=time.clock, **{"limit_s": 60, **more})


@pytest.mark.parametrize("error", [UnreachableError("cloud c:1 does not answer"), DrainingError("going down")])
def test_pauses_grow_up_to_the_longest(error, caplog):
    time = Time()
    with caplog.at_level(logging.WARNING):
        assert wait(failing(6, error), time, first_s=0.5, longest_s=3.0) == 7
    assert time.pauses == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]
    assert caplog.records[0].getMessage() == f"{error}; waited 0 s, trying again for 60 s more"


def said(records):
    """What each line says, and after how many seconds."""
    return [(text.partition("; waited ")[0], int(text.split("waited ")[1].split()[0])) for text in records]


def test_the_same_reason_is_told_at_growing_intervals_and_another_at_once(caplog):
    time, texts = Time(), iter(["gone"] * 60 + ["draining"] * 5)

    def call():
        if (text := next(texts, None)) is None:
            return True
        raise UnreachableError(text)

    with caplog.at_level(logging.WARNING):
        wait(call, time, limit_s=1000, first_s=5)
    told = [("gone", at) for at in (0, 10, 30, 70, 150)] + [("draining", at) for at in (300, 310)]
    assert said(caplog.messages) == told


def test_somebody_who_looks_on_is_told_every_ten_seconds(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(UnreachableError):
        wait(failing(10**6, UnreachableError("gone")), Time(), limit_s=35, first_s=5, growth=1.0)
    assert said(caplog.messages) == [("gone", at) for at in (0, 10, 20, 30)]


@pytest.mark.parametrize("limit_s", [10, 60])
def test_a_peer_that_speaks_otherwise_is_given_up_soon_without_a_word(caplog, limit_s):
    time = Time()
    with caplog.at_level(logging.WARNING), pytest.raises(HandshakeError, match=r"^c:1 does not speak TLS$"):
        wait(failing(10**6, HandshakeError("c:1 does not speak TLS")), time, limit_s=limit_s, handshake_s=2)
    assert 2 <= time.now - 100 <= 4 and not caplog.messages


def test_a_role_waits_for_a_peer_that_speaks_otherwise_as_for_any(caplog):
    with caplog.at_level(logging.WARNING):
        assert wait(failing(9, HandshakeError("no TLS")), Time()) == 10
    assert caplog.messages[0] == "no TLS; waited 0 s, trying again for 60 s more"


def test_an_answer_at_once_needs_no_pause():
    time = Time()
    assert wait(failing(0, UnreachableError("x")), time) == 1
    assert time.pauses == []


def test_it_gives_up_at_the_limit_and_says_why():
    time = Time()
    with pytest.raises(UnreachableError, match=r"^cloud c:1 did not answer for 10 s; gave up: gone$"):
        wait(failing(10**6, UnreachableError("gone")), time, limit_s=10)
    assert time.now == 110.0  # the last pause is cut to what is left, and the peer is asked once more after it
    assert time.pauses[-1] <= 5.0


@pytest.mark.parametrize("error", [MalformedError("field: x"), KeyError("x")])
def test_other_errors_are_raised_at_once(error):
    time = Time()
    with pytest.raises(type(error)):
        wait(failing(1, error), time)
    assert time.pauses == []
