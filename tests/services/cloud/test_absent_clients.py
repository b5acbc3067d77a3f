"""Who is not in a version, and why: said as it is made, and of the last one as the run completes."""

import pytest
from cloud_harness import CLIENTS, EDGES, adapter, run_async, site, spec

from elsa.v1 import adapter_pb2, fleet_pb2
from services.cloud.absent import absent, absent_at_the_end, sentence
from services.cloud.records import Answer, Member, Role
from services.cloud.round_records import ClientReport, Evaluation, Update

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
LATELY = {"heartbeat_s": 10}
"""With it nodes count as silent after 31 seconds."""


def reports(*clients):
    return [adapter_pb2.ClientReport(client_id=client, rows=10, steps=1) for client in clients]


def client(name, edge="e", **more):
    given = {"answer": Answer.JOINED, "edge_id": edge, "split": "1/1", **more}
    return Member(run_id="r", node_id=name, role=Role.CLIENT, **given)


def update(edge, *clients, **more):
    told = tuple(ClientReport(client_id=name, edge_round=0, rows=1, steps=1, loss=1.0) for name in clients)
    return Update(run_id="r", version=0, edge_id=edge, rows=1, sha256="0", reports=told, **more)


def why(members, updates, silent=None):
    return {each.client_id: each.detail for each in absent(members, updates, silent or {})}


@run_async
async def test_a_round_names_who_left_and_who_is_not_heard_of(tmp_path):
    async with site(tmp_path, **LATELY) as at:
        run = await at.started()
        await at.refuse(run, "client-4", "no memory")
        await at.silence("client-3", seconds=40)
        await at.push(run, "edge-1", adapter(1), reports=reports("client-1"))
        await at.push(run, "edge-2", adapter(1), reports=reports("client-2"))
        closed = (await at.closed(run, 1)).round_closed
        assert [(one.client_id, one.detail) for one in closed.absentees] == [
            ("client-3", "not heard of for 40 s"),
            ("client-4", "left: no memory"),
        ]
        assert (closed.clients, closed.absent) == (4, 2)


@run_async
async def test_a_round_in_which_all_are_names_nobody(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for edge, own in zip(EDGES, (CLIENTS[::2], CLIENTS[1::2]), strict=True):
            await at.push(run, edge, adapter(1), reports=reports(*own))
        closed = (await at.closed(run, 1)).round_closed
        assert (closed.clients, closed.absent, len(closed.absentees)) == (4, 0, 0)


@run_async
async def test_the_clients_of_an_edge_that_missed_the_deadline_are_named(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(1), reports=reports("client-1"), cut_short=True)
        at.later(601)
        closed = (await at.closed(run, 1)).round_closed
        assert {one.client_id: one.detail for one in closed.absentees} == {
            "client-2": "its edge edge-2 had not delivered",
            "client-3": "not done by the deadline of edge-1",
            "client-4": "its edge edge-2 had not delivered",
        }


@pytest.mark.parametrize("gone", [(), ("client-4",)])
def test_a_run_that_completes_says_who_did_not_take_part_to_its_end(tmp_path, gone):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started(spec(training={"rounds": 1}))
            await at.push(run, "edge-1", adapter(1), reports=reports("client-1", "client-3"))
            await at.push(run, "edge-2", adapter(1), reports=reports("client-2", "client-4"))
            await at.closed(run, 1)
            for name in gone:
                await at.refuse(run, name, "its certificate is revoked")
            for name in set(CLIENTS) - set(gone):
                await at.evaluate(run, name, 1)
            said = (await at.reach(run, COMPLETED)).state_changed.reason
            assert said == (await at.get(run)).reason
            told = "1 of 4 clients did not take part to the end: client-4 (left: its certificate is revoked)"
            assert said == (told if gone else "")

    test(tmp_path)


@run_async
async def test_an_event_names_the_first_few_of_a_large_fleet_and_counts_all(tmp_path):
    names = [f"client-{number:02}" for number in range(30)]
    async with site(tmp_path) as at:
        await at.register(clients=names)
        run = await at.submit(spec(fleet={"min_clients": 30}))
        await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
        for edge in EDGES:
            await at.push(run, edge, adapter(), initial=True)
            await at.join(run, edge, room=30)
        for name in names:
            await at.join(run, name)
        await at.reach(run, fleet_pb2.RUN_STATE_TRAINING)
        await at.push(run, "edge-1", adapter(1), reports=reports(names[0]))
        closed = (await at.closed(run, 1)).round_closed
        assert (closed.clients, closed.absent) == (30, 29)
        assert [one.client_id for one in closed.absentees] == names[1:21]


def test_each_absentee_has_the_reason_that_is_nearest_to_it():
    members = [
        client("gone", edge=None, answer=Answer.REFUSED, detail="no disk"),
        client("homeless", edge=None, answer=Answer.LEFT_OUT, detail="no edge has room"),
        client("late", edge="short"),
        client("orphan", edge="lost"),
        client("silent", edge="lost"),
        client("waiting", edge="slow"),
        client("without", edge="whole"),
    ]
    there = [update("short", "x", cut_short=True), update("whole", "y")]
    assert why(members, there, {"silent": "not heard of for 70 s", "lost": "its certificate is revoked"}) == {
        "gone": "left: no disk",
        "homeless": "left out: no edge has room",
        "late": "not done by the deadline of short",
        "orphan": "its edge lost: its certificate is revoked",
        "silent": "not heard of for 70 s",
        "waiting": "its edge slow had not delivered",
        "without": "whole went on without it",
    }


def test_who_never_had_an_edge_and_who_is_unreported_with_all_of_its_edge_is_not_absent():
    never = client("never", edge=None, answer=Answer.REFUSED, split=None)
    assert why([never, client("c"), client("d", edge="f")], [update("e"), update("f", "d")]) == {}


def test_evaluations_of_all_are_asked_after_only_where_they_were_awaited():
    members, there = [client("c"), client("d"), client("s")], [update("e", "c", "d", "s")]
    done = [Evaluation(run_id="r", version=1, client_id="c", rows=1, loss=1.0, accuracy=0.5)]

    def missing(*, awaited):
        quiet = dict.fromkeys("sc", "not heard of for 50 s")
        found = absent_at_the_end(members, there, done, quiet, trained=True, awaited=awaited)
        return {each.client_id: each.detail for each in found}

    assert missing(awaited=False) == {"s": "not heard of for 50 s"}
    assert missing(awaited=True) == {
        "d": "had not evaluated the last version by the deadline",
        "s": "not heard of for 50 s",
    }


def test_a_large_fleet_is_told_of_in_one_short_event_and_line():
    members = [client(f"c{number:05}") for number in range(10_000)]
    found = absent(members, [update("e", "c00000")], {})
    assert len(found) == 9_999
    said = sentence(found, len(members))
    assert said.startswith(
        "9999 of 10000 clients did not take part to the end: c00001 (e went on without it), c00002"
    )
    assert said.endswith(" and 9994 more") and len(said) < 400
