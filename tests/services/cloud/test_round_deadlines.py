"""Deadlines from recent rounds: what they are told from, and that nobody who is slow is shut out by them."""

import asyncio
import itertools
from dataclasses import replace

from cloud_harness import CLIENTS, EDGES, Clock, adapter, run_async, site, spec
from hypothesis import given
from hypothesis import strategies as st

from elsa.spec import RoundsSpec
from elsa.v1 import adapter_pb2, fleet_pb2
from services.cloud.deadlines import FEWEST, LEAST_S, RECENT, cut_by, deadline_of, give_whole_deadline
from services.cloud.lifecycle import RunState
from services.cloud.records import Answer, Member, Role, Run
from services.cloud.round_records import ClientReport, Round, Update
from services.cloud.rounds import closing
from services.cloud.store import Store

SPEC = RoundsSpec(deadline_s=600)


def closed(*seconds, **given):
    """Closed rounds that took so many seconds each."""
    return [
        Round(run_id="r", version=n, opened_unix_s=0.0, closed_unix_s=took, deadline_s=600.0, **given)
        for n, took in enumerate(seconds, 1)
    ]


@given(st.lists(st.floats(0.01, 2000), max_size=12), st.floats(1, 3000))
def test_a_deadline_is_between_its_floor_and_that_of_the_specification(seconds, whole):
    given = deadline_of(RoundsSpec(deadline_s=whole), closed(*seconds)).seconds
    recent = sorted(seconds[-RECENT:])
    assert given <= whole
    if len(recent) < FEWEST:
        assert given == whole
    else:
        middle = (recent[(len(recent) - 1) // 2] + recent[len(recent) // 2]) / 2
        assert given >= min(whole, max(LEAST_S, 1.5 * middle)) - 1e-9


def test_a_deadline_is_the_median_and_three_deviations():
    made = deadline_of(SPEC, closed(500, 100, 120, 160, 100, 100))
    assert made.seconds == 150  # the median of the last five is 100, most of them are there: the floor
    assert deadline_of(SPEC, closed(100, 120, 160, 180, 200)).seconds == 280  # 160 + 3 × 40
    assert (
        "5 recent rounds took 160 s in the middle, 40 s apart from it"
        in deadline_of(SPEC, closed(100, 120, 160, 180, 200)).why
    )


def test_rounds_that_were_cut_and_those_before_a_change_are_not_counted():
    assert deadline_of(SPEC, [*closed(90, 90), *closed(5, 5, 5, cut=True), *closed(90)]).seconds == 135
    assert deadline_of(SPEC, [*closed(90, 90, 90), *closed(200, anew=True), *closed(200)]).seconds == 600
    assert deadline_of(SPEC, [*closed(90), *closed(200, anew=True), *closed(200, 200)]).seconds == 300
    assert deadline_of(SPEC, closed(90, 90, 90), anew=True).seconds == 600
    assert deadline_of(RoundsSpec(deadline_s=600, adaptive=False), closed(90, 90, 90)).seconds == 600


def moved_in(opened):
    """A round that was open as clients changed their edge."""
    store = Store("sqlite://")
    run = Run(
        run_id="r",
        number=1,
        name="r",
        state=RunState.TRAINING,
        spec=spec(),
        rounds=9,
        version=opened.version - 1,
        created_unix_s=0.0,
    )
    with store.transaction() as transaction:
        transaction.put(run)
        transaction.put(opened)
        give_whole_deadline(transaction, run, 10.0)
        moved = transaction.get(Round, run_id="r", version=opened.version)
    store.close()
    return moved


def test_a_round_in_which_clients_moved_has_the_whole_deadline_and_is_not_counted():
    moved = moved_in(Round(run_id="r", version=6, opened_unix_s=0.0, deadline_s=135.0))
    assert moved.deadline_s == 600
    ended = replace(moved, closed_unix_s=5.0)
    assert deadline_of(SPEC, [*closed(90, 90, 90), ended, *closed(80, 80)]).seconds == 600
    assert deadline_of(SPEC, [*closed(90, 90, 90), ended, *closed(80, 80, 80)]).seconds == 120


def test_a_round_of_milliseconds_leaves_the_next_one_time_for_a_pause():
    assert deadline_of(SPEC, closed(0.1, 0.1, 0.1)).seconds == LEAST_S == 30


def fleet(count=4):
    edges = [Member(run_id="r", node_id=name, role=Role.EDGE, answer=Answer.JOINED) for name in EDGES]
    clients = [
        Member(run_id="r", node_id=f"client-{n}", role=Role.CLIENT, answer=Answer.JOINED, edge_id=EDGES[n % 2])
        for n in range(count)
    ]
    return [*edges, *clients]


def update(edge, clients=(), **given):
    reports = tuple(ClientReport(client_id=name, edge_round=0, rows=1, steps=1, loss=1.0) for name in clients)
    return Update(run_id="r", version=0, edge_id=edge, rows=1, sha256="", reports=reports, **given)


def cut(updates, gone=(), deadline_s=100.0):
    opened = Round(run_id="r", version=1, opened_unix_s=0.0, deadline_s=deadline_s)
    return cut_by(SPEC, opened, fleet(), updates, set(gone))


def test_who_is_there_and_missed_a_short_deadline_is_owed_a_whole_one():
    one = [update("edge-1", ["client-0", "client-2"])]
    assert cut(one).owed and cut(one).cut
    assert not cut(one, gone=["edge-2"]).owed
    assert not cut(one, gone=["client-1", "client-3"]).owed
    assert not cut(one, deadline_s=600.0).owed
    both = [*one, update("edge-2", ["client-1"], cut_short=True)]
    assert cut(both).owed
    assert not cut(both, gone=["client-3"]).owed
    assert cut([*one, update("edge-2", ["client-1", "client-3"], cut_short=True)]).owed  # it missed an edge round
    assert deadline_of(SPEC, [*closed(90, 90, 90), cut(one)]).seconds == 600


@given(st.integers(1, 12), st.data(), st.floats(0, 700))
def test_a_shortened_deadline_closes_with_half_the_edges_and_fails_nothing(edges, data, open_s):
    names = [f"edge-{n}" for n in range(edges)]
    came = data.draw(st.sets(st.sampled_from(names)))
    verdict = closing(SPEC, 1, names, [update(name) for name in came], open_s, 100.0)
    assert verdict.go == (
        len(came) == edges or (open_s >= 100 and 2 * len(came) >= edges) or (bool(came) and open_s >= 600)
    )
    assert bool(verdict.failure) == (not came and open_s >= 600)


@given(st.lists(st.floats(1, 500), min_size=8, max_size=30))
def test_an_edge_that_takes_less_than_the_whole_deadline_is_in_every_second_round(slow):
    """One edge takes 10 s always, the other what is drawn; both are there."""
    done, missed = [], []
    for version, takes in enumerate(slow, 1):
        deadline_s = deadline_of(SPEC, done).seconds
        opened = Round(run_id="r", version=version, opened_unix_s=0.0, deadline_s=deadline_s)
        missed.append(takes > deadline_s)
        if missed[-1]:
            opened = cut_by(SPEC, opened, fleet(), [update("edge-1", ["client-0", "client-2"])], set())
        done.append(Round(**{**vars(opened), "closed_unix_s": min(max(takes, 10.0), deadline_s)}))
    assert not any(first and second for first, second in itertools.pairwise(missed))


def test_a_lasting_slowdown_is_caught_up_with():
    done = closed(20, 20, 20, 20, 20)
    missed = 0
    for version in range(6, 20):
        deadline_s = deadline_of(SPEC, done).seconds
        opened = Round(run_id="r", version=version, opened_unix_s=0.0, deadline_s=deadline_s)
        if deadline_s < 200:
            missed += 1
            opened = cut_by(SPEC, opened, fleet(), [update("edge-1", ["client-0", "client-2"])], set())
        done.append(Round(**{**vars(opened), "closed_unix_s": min(200.0, deadline_s)}))
    assert missed == 3 and deadline_of(SPEC, done).seconds == 300


async def rounds_of(at, run, versions, seconds):
    """Both edges deliver these versions, each `seconds` after it was opened."""
    for version in versions:
        at.clock.now += seconds
        for edge in EDGES:
            await at.push(run, edge, adapter(version), version=version)
        await at.closed(run, version + 1)


async def opened(at, run, version):
    return (await at.wait(run, lambda event: event.round_opened.version == version)).round_opened


def long():
    return spec(training={"rounds": 9})


@run_async
async def test_a_round_closes_at_the_deadline_of_recent_ones_and_the_next_has_the_whole_one(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(long())
        assert (await opened(at, run, 1)).detail == "as specified, until 3 rounds tell what one takes"
        await rounds_of(at, run, range(3), 60)
        told = await opened(at, run, 4)
        assert told.deadline_s == 90 and told.detail == "3 recent rounds took 60 s in the middle, 0 s apart from it"
        await at.push(run, "edge-1", adapter(3), version=3)
        at.clock.now += 89
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).version == 3
        at.later(1)
        assert list((await at.closed(run, 4)).round_closed.missing_edge_ids) == ["edge-2"]
        assert (await opened(at, run, 5)).deadline_s == 600
        await rounds_of(at, run, [4], 300)
        assert (await opened(at, run, 6)).deadline_s == 90


@run_async
async def test_edges_are_told_the_deadline_with_the_version(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(long())
        await rounds_of(at, run, range(3), 60)
        request = adapter_pb2.PullAdapterRequest(run_id=run, node_id="edge-1", version=3)
        header = (await anext(aiter(at.adapters.PullAdapter(request, timeout=20)))).header
        assert header.deadline_s == 90


@run_async
async def test_deadlines_outlive_the_cloud(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(long())
        await rounds_of(at, run, range(3), 60)
        clock = at.clock
    async with site(tmp_path, clock) as at:
        await at.push(run, "edge-1", adapter(3), version=3)
        at.later(90)
        await at.closed(run, 4)


@run_async
async def test_a_round_in_which_clients_move_has_the_whole_deadline(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(long())
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for edge in EDGES:
            await at.push(run, edge, adapter(), initial=True)
            await at.join(run, edge, room=4)
        await asyncio.gather(*(at.join(run, client, near=EDGES[n % 2]) for n, client in enumerate(CLIENTS)))
        await at.reach(run, fleet_pb2.RUN_STATE_TRAINING)
        await rounds_of(at, run, range(3), 60)
        await at.refuse(run, "edge-2", "disk is full")
        told = await at.wait(
            run, lambda event: event.round_opened.deadline_s == 600 and event.round_opened.version == 4
        )
        assert told.round_opened.detail == "clients changed their edge in it"
        at.clock.now += 599
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).version == 3
        await at.push(run, "edge-1", adapter(3), version=3)
        await at.closed(run, 4)
        assert (await opened(at, run, 5)).detail == "as specified, until 3 rounds tell what one takes"


@run_async
async def test_a_round_in_which_the_cloud_was_away_tells_no_deadline(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await at.started(spec(training={"rounds": 3}))
        clock.now += 40
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        clock.now += 10
    clock.now += 5000
    async with site(tmp_path, clock) as at:
        for edge in EDGES:
            await at.push(run, edge, adapter(2), version=1)
        await at.closed(run, 2)
        with at.cloud.engine._store.transaction() as transaction:
            made = [(kept.cut, kept.owed) for kept in transaction.all(Round, run_id=run)]
    assert made == [(False, False), (False, False), (True, False), (False, False)]
