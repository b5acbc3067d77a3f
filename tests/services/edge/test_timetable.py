"""An edge round may last in proportion to what it took of late, and what the ones before it left over."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
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
from services.edge.timetable import LEAST_S, Timetable
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


@given(
    taken=st.lists(st.lists(seconds, max_size=4), min_size=1, max_size=4),
    cut=st.dictionaries(st.integers(0, 3), seconds),
    left_s=st.floats(-9, 1e4),
)
def test_the_parts_of_edge_rounds_that_use_them_up_make_the_whole(taken, cut, left_s):
    table = Timetable(len(taken))
    table.resume(dict(enumerate(taken)), cut)
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


def version_of(table, needs, left_s):
    """Make a version whose edge rounds need so long; the numbers of those that were cut short."""
    cut = []
    for number, need in enumerate(needs):
        given = table.share_s(number, left_s)
        if need <= given * (1 + 1e-9):
            table.add(number, need)
        else:
            cut.append(number)
            table.cut_short(number, given)
        left_s -= min(need, given)
    return cut


needs_of_all = st.lists(st.floats(0, 1e4), min_size=1, max_size=7)


@settings(max_examples=500)
@given(needs=needs_of_all, room=st.just(1.0) | st.floats(1.0, 3.0))
def test_where_all_fit_the_whole_none_is_cut_after_one_version_fewer_than_there_are_edge_rounds(needs, room):
    table, all_s = Timetable(len(needs)), room * sum(max(need, LEAST_S) for need in needs) * (1 + 1e-9)
    cut = [bool(version_of(table, needs, all_s)) for _ in range(len(needs) + 4)]
    assert not any(cut[len(needs) - 1 :])


@settings(max_examples=500)
@given(data=st.data(), before=needs_of_all, room=st.floats(1.0, 2.0))
def test_where_they_take_otherwise_from_now_on_and_fit_none_is_cut_soon_again(data, before, room):
    count = len(before)
    after = data.draw(st.lists(st.floats(0, 1e4), min_size=count, max_size=count))
    all_s = room * max(sum(max(need, LEAST_S) for need in needs) for needs in (before, after)) * (1 + 1e-9)
    table = Timetable(count)
    for _ in range(data.draw(st.integers(0, count + 4))):
        version_of(table, before, all_s)
    cut = [bool(version_of(table, after, all_s)) for _ in range(2 * count + 8)]
    assert not any(cut[count + 3 :])


@settings(max_examples=300)
@given(usual=needs_of_all, room=st.floats(2.0, 9.0), stuck=st.data())
def test_one_that_never_ends_takes_nothing_from_those_that_need_up_to_half_of_the_whole(usual, room, stuck):
    table, count = Timetable(len(usual)), len(usual)
    endless = stuck.draw(st.integers(0, count - 1))
    for number, took in enumerate(usual):
        table.add(number, took)
    if stuck.draw(st.booleans()):
        table.cut_short(endless, stuck.draw(st.floats(0, 1e5)))
    others = [max(need, LEAST_S) for number, need in enumerate(usual) if number != endless]
    needs = [1e9 if number == endless else took for number, took in enumerate(usual)]
    assume(usual[endless] <= sum(others) or endless in table.cut)
    for _ in range(8):
        assert version_of(table, needs, room * sum(others) + 1.0) == [endless]


def test_where_none_ends_their_parts_stay_as_they_were():
    table, parts = Timetable(3), []
    for number, took in enumerate((45.0, 5.0, 10.0)):
        table.add(number, took)
    for _ in range(4):
        left, own = 600.0, []
        for number in range(3):
            own.append(table.share_s(number, left))
            table.cut_short(number, own[-1])
            left -= own[-1]
        parts.append(own)
    assert all(own == pytest.approx([450.0, 50.0, 100.0]) for own in parts)


@given(cut=st.lists(st.booleans(), min_size=2, max_size=6), took=seconds, left_s=st.floats(1, 1e4))
def test_one_that_was_cut_short_gets_an_equal_part_at_least_however_long_the_others_take(cut, took, left_s):
    table = Timetable(len(cut))
    for number, short in enumerate(cut):
        (table.cut_short if short else table.add)(number, 5.0 if short else took)
    if cut[0]:
        assert table.share_s(0, left_s) >= left_s / len(cut) * (1 - 1e-9)


@pytest.mark.parametrize("takes_s", [(200.0, 40.0, 40.0, 40.0), (500.0, 30.0), (40.0, 200.0, 40.0, 250.0)])
@pytest.mark.parametrize("restarts", [(), (1, 2, 3)])
def test_an_edge_round_that_needs_more_than_an_equal_part_gets_it(tmp_path, takes_s, restarts):
    """Also over restarts, and with the deadlines of a cloud that is told which versions were cut short."""
    cut = served(takes_s, tmp_path, restarts=restarts)
    assert cut[0] and not any(cut[len(takes_s) - 1 :])


def test_of_an_edge_round_that_was_cut_short_it_is_known_that_it_takes_longer(tmp_path):
    run = RunHere((45.0, 5.0))
    run.version(EdgeState(tmp_path, "edge-1"), 0, 20.0)
    assert (run.timetable.taken, run.timetable.cut) == ({0: (), 1: (5.0,)}, {0: 10.0})
    again = Timetable(2)
    for seconds in (9.0, 30.0, 8.0):
        again.add(0, seconds)
    again.cut_short(0, 10.0)
    assert (again.taken[0], again.cut) == ((30.0,), {0: 10.0})
    again.add(0, 40.0)
    assert (again.taken[0], again.cut) == ((30.0, 40.0), {})


def test_an_edge_round_that_took_next_to_nothing_counts_as_one_that_took_a_second():
    table = Timetable(3)
    for number, seconds in enumerate((0.01, 0.99, 1.0)):
        table.add(number, seconds)
    assert [table.share_s(number, 9.0) for number in range(3)] == [3.0, 4.5, 9.0]


def test_time_that_is_gone_leaves_none():
    table = Timetable(2)
    assert [table.share_s(number, -3.0) for number in (0, 1)] == [0.0, 0.0]
    assert all(one <= other for one, other in pairwise(table.share_s(1, left) for left in (-1.0, 0.0, 1.0)))
