"""Members of a run that has begun for whom nobody waits: events and edges' assignments say who, and until when."""

from cloud_harness import CLIENTS, EDGES, Clock, run_async, site

from elsa.v1 import fleet_pb2
from services.cli.events import line

GONE = {"heartbeat_s": 10, "gone_after_s": 60}


def changes(event):
    return event.HasField("presence_changed")


def away(event):
    return {node.node_id: node.detail for node in event.presence_changed.first_away}


async def told(at, edge, found):
    """What an edge is told of its clients as soon as `found` is true of it."""
    call = at.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=edge), timeout=30)
    async for message in call:
        for assignment in message.assignments:
            pairs = dict(zip(assignment.client_ids, assignment.away, strict=True))
            if found(pairs):
                call.cancel()
                return pairs
    raise AssertionError("the stream ended")


async def silenced(at, *nodes, seconds=61):
    await at.silence(*nodes, seconds=seconds)
    at.later(0)


@run_async
async def test_a_silent_client_is_not_waited_for_until_it_is_heard_again(tmp_path):
    async with site(tmp_path, **GONE) as at:
        run = await at.started()
        await silenced(at, "client-3")
        first = await at.wait(run, changes)
        assert away(first) == {"client-3": "not heard of for 61 s"}
        assert line(first).endswith("  client-3 is not waited for: not heard of for 61 s")
        assert await told(at, "edge-1", lambda pairs: any(pairs.values())) == {"client-1": False, "client-3": True}
        shown = await at.get(run)
        assert (shown.away_count, [node.node_id for node in shown.away]) == (1, ["client-3"])
        await at.heartbeat("client-3")
        back = await at.wait(run, changes, after=first.sequence)
        assert (back.presence_changed.away, list(back.presence_changed.first_back)) == (0, ["client-3"])
        assert line(back).endswith("  client-3 is back")
        assert not any((await told(at, "edge-1", lambda pairs: not any(pairs.values()))).values())
        assert (await at.get(run)).away_count == 0


@run_async
async def test_many_at_once_are_one_event_with_their_number(tmp_path):
    async with site(tmp_path, **GONE) as at:
        run = await at.started()
        await silenced(at, *CLIENTS[1:], "edge-2")
        event = await at.wait(run, changes)
        assert event.presence_changed.away == 4
        assert list(away(event)) == [*CLIENTS[1:], "edge-2"]


@run_async
async def test_a_restarted_cloud_waits_for_nobody_who_was_gone_before_until_it_hears_of_it(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock, **GONE) as at:
        run = await at.started()
        await silenced(at, "client-3")
        first = await at.wait(run, changes)
    async with site(tmp_path, clock, **GONE) as at:
        at.later(0)
        for node in (*EDGES, *CLIENTS[:2], CLIENTS[3]):
            await at.heartbeat(node)
        assert (await told(at, "edge-1", bool))["client-3"]
        assert (await at.get(run)).away_count == 1
        await at.heartbeat("client-3")
        at.later(0)
        back = await at.wait(run, changes, after=first.sequence)
        assert list(back.presence_changed.first_back) == ["client-3"]


@run_async
async def test_of_one_that_leaves_the_run_nothing_is_noted_any_more(tmp_path):
    async with site(tmp_path, **GONE) as at:
        run = await at.started()
        await silenced(at, "client-3")
        await at.wait(run, changes)
        await at.refuse(run, "client-3", "no disk")
        assert (await told(at, "edge-1", lambda pairs: len(pairs) == 1)) == {"client-1": False}
        assert (await at.get(run)).away_count == 0
