"""Members that leave a run which has begun, and a cloud that was away."""

import grpc
import pytest
from cloud_harness import CLIENTS, EDGES, Clock, adapter, refused, run_async, site, spec

from elsa.v1 import fleet_pb2

TRAINING, COMPLETED, FAILED = (
    fleet_pb2.RUN_STATE_TRAINING,
    fleet_pb2.RUN_STATE_COMPLETED,
    fleet_pb2.RUN_STATE_FAILED,
)
NO_ROOM = "no edge has room; add an edge or raise a capacity"


async def clients_of(at, run, edge):
    """The clients of an edge in a run, once by once as they change."""
    call = at.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=edge), timeout=30)
    async for message in call:
        yield [list(assignment.client_ids) for assignment in message.assignments if assignment.run_id == run]


async def departures(at, run):
    """Who left, and why, up to now."""
    sequence = 0
    found = []
    await at.refuse(run, "client-4", "the last to leave")
    async for event in at.events(run):
        assert event.sequence == sequence + 1
        sequence = event.sequence
        if event.HasField("node_joined") and not event.node_joined.accepted:
            found.append((event.node_joined.node_id, event.node_joined.detail))
            if found[-1][0] == "client-4":
                return found[:-1]
    raise AssertionError("the run ended before client-4 left")


@run_async
async def test_client_that_leaves_is_left_out_of_its_edges_assignment(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        watched = clients_of(at, run, "edge-1")
        assert await anext(watched) == [["client-1", "client-3"]]
        await at.refuse(run, "client-1", "no memory\nleft")
        assert await anext(watched) == [["client-3"]]
        assert list((await at.get(run)).client_ids) == list(CLIENTS[1:])
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "no part", "refused"):
            await at.pull(run, "client-1", 0)


@run_async
async def test_leaving_twice_is_leaving_once(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.refuse(run, "client-1", "no memory")
        await at.refuse(run, "client-1", "no memory")
        await at.refuse(run, "client-1", "another reason")
        assert await departures(at, run) == [("client-1", "no memory")]


@run_async
async def test_member_that_left_cannot_join_again(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.refuse(run, "client-1", "no memory")
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "takes no more answers"):
            await at.join(run, "client-1")


@run_async
async def test_round_closes_without_an_edge_that_lost_its_clients(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(7))
        for client in ("client-2", "client-4"):
            await at.refuse(run, client, "no memory")
        closed = (await at.closed(run, 1)).round_closed
        assert (list(closed.edge_ids), list(closed.missing_edge_ids)) == (["edge-1"], [])
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "edge-2 has no clients"):
            await at.push(run, "edge-2", adapter(1), version=1)


@run_async
async def test_edge_that_leaves_takes_the_clients_along_that_find_no_other(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-2", adapter(7))
        await at.refuse(run, "edge-1", "disk is full")
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == ["edge-2"]
        assert list((await at.get(run)).client_ids) == ["client-2", "client-4"]
        assert await departures(at, run) == [
            ("edge-1", "disk is full"),
            ("client-1", f"its edge edge-1 left: disk is full; {NO_ROOM}"),
            ("client-3", f"its edge edge-1 left: disk is full; {NO_ROOM}"),
        ]
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "left out"):
            await at.pull(run, "client-1", 0)


@run_async
async def test_update_of_an_edge_that_left_counts_but_not_towards_the_quorum(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(1))
        await at.refuse(run, "edge-1", "disk is full")
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).version == 0
        await at.push(run, "edge-2", adapter(3))
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)


@run_async
async def test_run_without_a_working_edge_fails_with_the_reasons(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.refuse(run, "edge-1", "disk is full")
        for client in ("client-2", "client-4"):
            await at.refuse(run, client, f"no memory at {client}")
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert "\n" not in reason and reason.startswith("no edge with clients is left; edge-1 left: disk is full; ")
        assert "client-2 left: no memory at client-2; client-4 left: no memory at client-4" in reason
        async with refused(grpc.StatusCode.ABORTED, "has ended"):
            await at.refuse(run, "edge-2", "late")


@pytest.mark.parametrize("leaving", ["client-4", "edge-2"])
def test_evaluations_of_those_who_left_are_not_awaited(tmp_path, leaving):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started(spec(training={"rounds": 1}))
            for edge in EDGES:
                await at.push(run, edge, adapter(1))
            await at.closed(run, 1)
            for client in ("client-1", "client-3") if leaving == "edge-2" else CLIENTS[:3]:
                await at.evaluate(run, client, 1)
            assert (await at.get(run)).state == TRAINING
            await at.refuse(run, leaving, "no memory")
            await at.reach(run, COMPLETED)

    test(tmp_path)


@run_async
async def test_cloud_that_was_down_past_the_deadline_goes_on_in_the_same_round(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await at.started()
    clock.now += 1000
    async with site(tmp_path, clock) as at:
        await at.cloud.engine.advance(run, clock())
        assert (await at.get(run)).state == TRAINING
        await at.push(run, "edge-1", adapter(1))
        at.later(599)
        await at.push(run, "edge-2", adapter(3))
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)


@run_async
async def test_cloud_that_was_down_past_the_deadline_awaits_the_last_evaluations(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await at.started(spec(training={"rounds": 1}))
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
    clock.now += 1000
    async with site(tmp_path, clock) as at:
        await at.cloud.engine.advance(run, clock())
        assert (await at.get(run)).state == TRAINING
        for client in CLIENTS:
            await at.evaluate(run, client, 1)
        await at.reach(run, COMPLETED)
