"""Roles of one machine measure one after another, and none waits for ever."""

import fcntl
import logging

import pytest

from services.rpc import folders
from services.rpc.folders import turn


class Time:
    """A clock that goes on when somebody sleeps."""

    def __init__(self):
        self.now, self.sleeps = 0.0, 0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now, self.sleeps = self.now + seconds, self.sleeps + 1


def taken(folder):
    """Whether somebody has the turn."""
    with (folder / "turn").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_turn_is_had_alone_and_given_back(tmp_path, caplog):
    time = Time()
    for _ in range(2):
        with turn(tmp_path, clock=time.clock, sleep=time.sleep):
            assert taken(tmp_path)
        assert not taken(tmp_path)
    assert not time.sleeps and not caplog.messages


def test_who_waits_goes_on_when_the_other_ends(tmp_path, caplog):
    time = Time()
    with (tmp_path / "turn").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def sleep(seconds):
            time.sleep(seconds)
            if time.sleeps == 3:
                fcntl.flock(other, fcntl.LOCK_UN)

        with turn(tmp_path, clock=time.clock, sleep=sleep):
            assert taken(tmp_path) and time.sleeps == 3
    assert not caplog.messages


def test_who_has_waited_long_goes_on_without(tmp_path, caplog):
    time = Time()
    with (tmp_path / "turn").open("ab") as other, caplog.at_level(logging.WARNING):
        fcntl.flock(other, fcntl.LOCK_EX)
        with turn(tmp_path, clock=time.clock, sleep=time.sleep):
            assert time.now == pytest.approx(60.0, abs=0.2)
        assert taken(tmp_path), "the other's"
    assert "has measured for 60 s" in caplog.text


def test_a_folder_that_cannot_be_locked_is_no_hindrance(tmp_path, caplog, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    with turn(tmp_path):
        assert "no locks available" in caplog.text
