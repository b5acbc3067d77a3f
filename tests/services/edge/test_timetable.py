"""An edge round may last in proportion to what it took of late, and what the ones before it left over."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_harness import spec_of

from elsa.spec import RoundsSpec
from elsa.wire.adapter import encode_adapter
from services.cloud.deadlines import deadline_of
from services.cloud.round_records import Round
from services.edge.driver import EDGE_SHARE
from services.edge.global_round import GlobalRound
from services.edge.parts import Closed, Part
from services.edge.rounds import EdgeRounds
from services.edge.state import EdgeState
from services.edge.timetable import Timetable
from services.rpc.adapters import Pulled

START = {"a": np.zeros(2, np.float32)}
seconds = st.floats(1, 1e4)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Paced(EdgeRounds):
    """Rounds of one client that takes so many seconds in each edge round."""

    def __init__(self, clock, takes_s):
        super().__init__(1.0)
        self.admit(["ann"])
        self._clock, self.takes_s = clock, takes_s

    def close(self, deadline_s):
        takes = self.takes_s[self.place[1]]
        self._clock.now += min(takes, deadline_s)
        if takes > deadline_s:
            return Closed(parts={}, missing=("ann",), cut_short=True)
        return Closed(parts={0: Part(adapter=START, rows=1, clients=1, reports=())}, missing=())


class RunHere:
    """A run at an edge whose clients' rounds take a given time."""

    run_id, sessions = "tiny-1", type("NoSessions", (), {"forget_round": lambda self, run_id: None})()

    def __init__(self, takes_s):
        self.clock = Clock()
        self.spec = spec_of("minilm", training={"rounds": 99, "edge_rounds": len(takes_s)})
        self.rounds = Paced(self.clock, takes_s)
        self.timetable = Timetable(len(takes_s))

    def version(self, state, version, left_s):
        """Make one; its delivery, and the seconds that it took."""
        pulled = Pulled(version=version, data=encode_adapter(START))
        one = GlobalRound(self, state, pulled, START, clock=self.clock)
        if not (version and one.resume()):
            self.rounds.open(version, 0, START)
        began = self.clock.now
        return one.close_all(left_s), self.clock.now - began


def served(takes_s, folder, versions=12, restarts=()):
    """Which versions were cut short, with the deadlines that the cloud gives for what recent ones took."""
    state, run, done, cut = EdgeState(folder, "edge-1"), RunHere(takes_s), [], []
    for version in range(versions):
        if version in restarts:
            run = RunHere(takes_s)
        deadline_s = deadline_of(RoundsSpec(deadline_s=600), done).seconds
        delivery, took = run.version(state, version, EDGE_SHARE * deadline_s)
        cut.append(delivery.cut_short)
        done.append(
            Round(
                run_id="r",
                version=version + 1,
                opened_unix_s=0.0,
                closed_unix_s=took,
                deadline_s=deadline_s,
                cut=delivery.cut_short,
                owed=delivery.cut_short and deadline_s < 600,
            )
        )
    return cut


@pytest.mark.parametrize("takes_s", [(45.0, 5.0, 5.0), (15.0, 12.0), (40.0, *[10.0] * 4), (5.0, 5.0, 45.0)])
def test_a_slow_evaluation_before_the_first_edge_round_cuts_nobody_off(tmp_path, takes_s):
    assert not any(served(takes_s, tmp_path))


def test_an_edge_that_is_restarted_still_knows_how_long_its_edge_rounds_take(tmp_path):
    assert not any(served((45.0, 5.0, 5.0), tmp_path, restarts=(5, 6, 9)))


@given(taken=st.lists(st.lists(seconds, max_size=4), min_size=1, max_size=4), left_s=st.floats(-9, 1e4))
def test_the_parts_of_edge_rounds_that_use_them_up_make_the_whole(taken, left_s):
    table = Timetable(len(taken))
    table.resume(dict(enumerate(taken)))
    shares, left = [], left_s
    for number in range(len(taken)):
        shares.append(table.share_s(number, left))
        left -= shares[-1]
    assert all(share >= 0 for share in shares)
    assert sum(shares) == pytest.approx(max(left_s, 0.0))


@given(usual=st.lists(seconds, min_size=1, max_size=5), slower=st.data())
def test_whoever_is_no_slower_than_the_whole_has_room_for_is_never_cut_off(usual, slower):
    """Each edge round may take as much longer than usual as the time for all is longer than all usually take."""
    table, room = Timetable(len(usual)), 1.35
    for number, took in enumerate(usual):
        table.add(number, took)
    left = room * sum(usual)
    for number, took in enumerate(usual):
        takes = slower.draw(st.floats(0, room)) * took
        assert takes <= table.share_s(number, left) * (1 + 1e-9)
        left -= takes


@given(usual=st.lists(seconds, min_size=2, max_size=4), left_s=st.floats(1, 1e4), spared=st.floats(0, 1))
def test_what_an_edge_round_does_not_use_is_the_next_ones(usual, left_s, spared):
    table = Timetable(len(usual))
    for number, took in enumerate(usual):
        table.add(number, took)
    first = table.share_s(0, left_s)
    whole, more = (table.share_s(1, left_s - used * first) for used in (1.0, spared))
    assert more >= whole


def test_until_all_are_known_the_parts_are_equal_and_after_three_new_times_the_old_say_nothing():
    table = Timetable(2)
    table.add(0, 30.0)
    assert table.share_s(0, 100.0) == 50.0
    table.add(1, 10.0)
    assert table.share_s(0, 100.0) == 75.0
    for _ in range(3):
        table.add(0, 10.0)
    assert table.share_s(0, 100.0) == 50.0
    assert [len(taken) for taken in table.taken.values()] == [3, 1]


def test_an_edge_round_that_was_cut_short_or_empty_is_not_learned_from(tmp_path):
    run = RunHere((45.0, 5.0))
    run.version(EdgeState(tmp_path, "edge-1"), 0, 20.0)
    assert run.timetable.taken == {0: (), 1: (5.0,)}


def test_time_that_is_gone_leaves_none():
    table = Timetable(2)
    assert [table.share_s(number, -3.0) for number in (0, 1)] == [0.0, 0.0]
    assert all(one <= other for one, other in pairwise(table.share_s(1, left) for left in (-1.0, 0.0, 1.0)))
