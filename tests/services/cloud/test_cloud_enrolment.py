"""Enrolment: who is offered a run, who joins, and what a run without its minimum says."""

import grpc
from cloud_harness import CLIENTS, EDGES, Clock, adapter, refused, run_async, site, spec

from elsa.v1 import fleet_pb2

ROWS = {"train_rows": 1, "heldout_rows": 1}
ENROLLING, TRAINING, FAILED = (
    fleet_pb2.RUN_STATE_ENROLLING,
    fleet_pb2.RUN_STATE_TRAINING,
    fleet_pb2.RUN_STATE_FAILED,
)
SCHEMED = ("unix:/run/a:1", "unix:1", "dns:///h:1", "ipv4:10.0.0.1:22,10.0.0.2:1", "xds:///h:1", "me@h:1", "::1:1")
"""What gRPC would dial otherwise than a host."""


@run_async
async def test_run_without_a_fleet_fails_in_time_and_says_who_is_there(tmp_path):
    async with site(tmp_path) as at:
        await at.register(edges=EDGES[:1], clients=CLIENTS[:1])
        await at.register(edges=(), clients=("other",), datasets=("other",))
        run = await at.submit()
        at.later(301)
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert "1 of 2 edges (edge-1)" in reason and "1 of 4 clients (client-1)" in reason


@run_async
async def test_all_answered_but_too_few_fails_at_once(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for node in (*EDGES, *CLIENTS[:3]):
            await at.join(run, node)
        await at.refuse(run, "client-4", "no column\n'label' in trec.csv")
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert reason.startswith("3 of 4 clients joined; client-4 refused: no column 'label' in trec.csv")


@run_async
async def test_where_it_waits_for_others_a_run_goes_on_with_who_comes_in_place_of_who_refused(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(spec(fleet={"wait_for_others": True}))
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for node in (*EDGES, *CLIENTS[:3]):
            await at.join(run, node, room=4)
        await at.refuse(run, "client-4", "busy")
        at.later(299)
        await at.cloud.engine.advance(run, at.clock())
        assert (await at.get(run)).state == ENROLLING
        await at.register(edges=(), clients=("client-5",))
        await at.wait_for_offer(run, "client-5")
        await at.join(run, "client-5")
        await at.reach(run, TRAINING)


@run_async
async def test_where_it_waits_for_others_a_run_fails_once_nobody_came_in_time(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(spec(fleet={"wait_for_others": True}))
        await at.reach(run, ENROLLING)
        for client in CLIENTS:
            await at.refuse(run, client, "busy")
        at.later(301)
        assert "client-4 refused: busy" in (await at.reach(run, FAILED)).state_changed.reason


@run_async
async def test_timeout_names_who_refused_and_who_has_not_answered(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(spec(fleet={"min_clients": 3}))
        await at.reach(run, ENROLLING)
        await at.join(run, "client-1")
        await at.refuse(run, "client-3", "busy")
        at.later(301)
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert reason.startswith("1 of 3 clients joined; 0 of 2 edges joined; client-2 has not answered")
        assert "client-3 refused: busy" in reason


@run_async
async def test_timeout_starts_with_those_who_joined(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(spec(fleet={"min_clients": 2}))
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for node in (*EDGES, *CLIENTS[:2]):
            await at.join(run, node)
        at.later(301)
        await at.reach(run, TRAINING)
        assert list((await at.get(run)).client_ids) == ["client-1", "client-2"]
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "takes no more answers"):
            await at.join(run, "client-3")


@run_async
async def test_silent_nodes_are_not_awaited(tmp_path):
    async with site(tmp_path, heartbeat_s=2) as at:
        await at.register()
        run = await at.submit(spec(fleet={"min_clients": 3}))
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for node in (*EDGES, *CLIENTS[:3]):
            await at.join(run, node)
        at.clock.now += 8
        for node in (*EDGES, *CLIENTS[:3]):
            await at.heartbeat(node)
        await at.reach(run, TRAINING)
        assert "client-4" not in (await at.get(run)).client_ids


@run_async
async def test_run_without_a_first_adapter_fails(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        for node in (*EDGES, *CLIENTS):
            await at.join(run, node)
        at.later(301)
        assert "no edge pushed the first adapter" in (await at.reach(run, FAILED)).state_changed.reason


@run_async
async def test_first_adapters_must_be_the_same(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "takes no updates yet"):
            await at.push(run, "edge-1", adapter())
        assert await at.push(run, "edge-1", adapter(), initial=True)
        assert not await at.push(run, "edge-2", adapter(), initial=True)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "edge-2", "differs", "same model files"):
            await at.push(run, "edge-2", adapter(1), initial=True)


@run_async
async def test_too_little_room_is_waited_out_and_then_fails_the_run_and_names_a_client(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for edge in EDGES:
            await at.join(run, edge, room=1)
        for client in CLIENTS:
            await at.join(run, client)
        await _settled(at, run)
        assert (await at.get(run)).state == ENROLLING
        at.later(301)
        reason = (await at.reach(run, FAILED)).state_changed.reason
        assert reason.startswith("client-") and "edge-1 1/1, edge-2 1/1" in reason


@run_async
async def test_edge_that_comes_late_makes_room(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for edge in EDGES:
            await at.join(run, edge, room=1)
        for client in CLIENTS:
            await at.join(run, client)
        await _settled(at, run)
        await at.register(edges=(*EDGES, "edge-3"), clients=())
        await at.wait_for_offer(run, "edge-3")
        await at.join(run, "edge-3")
        for client in CLIENTS[:2]:
            await at.join(run, client, near="edge-3", edges=("edge-3",))
        await at.reach(run, TRAINING)
        given = [event async for event in _assigned(at, run)]
        assert [one.edge_id for one in given if one.client_id in CLIENTS[:2]] == ["edge-3", "edge-3"]


async def _settled(at, run):
    """Back when the cloud has drawn the consequences of all that it was told."""
    await at.cloud.engine.advance(run, at.clock())


@run_async
async def test_time_in_which_the_cloud_was_down_does_not_count_for_enrolment(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
    clock.now += 1000
    async with site(tmp_path, clock) as at:
        await _settled(at, run)
        assert (await at.get(run)).state == ENROLLING
        at.later(301)
        await at.reach(run, FAILED)


@run_async
async def test_client_goes_to_its_nearest_edge_with_its_own_split(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(splits={"client-2": {"bottom": 2, "top": 0}}))
        given = [event async for event in _assigned(at, run)]
        assert [(one.client_id, one.edge_id, (one.bottom, one.top)) for one in given] == [
            ("client-1", "edge-1", (1, 1)),
            ("client-2", "edge-2", (2, 0)),
            ("client-3", "edge-1", (1, 1)),
            ("client-4", "edge-2", (1, 1)),
        ]


async def _assigned(at, run):
    async for event in at.events(run):
        if event.HasField("client_assigned"):
            yield event.client_assigned
        if event.state_changed.state == TRAINING:
            return


@run_async
async def test_nodes_that_come_late_are_offered_the_run_too(tmp_path):
    async with site(tmp_path) as at:
        await at.register(clients=CLIENTS[:3])
        run = await at.submit(spec(fleet={"min_clients": 3}))
        await at.reach(run, ENROLLING)
        await at.register(clients=CLIENTS)
        await at.enroll(run)
        assert list((await at.get(run)).client_ids) == list(CLIENTS)


@run_async
async def test_enrolment_survives_a_restart(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        await at.push(run, "edge-1", adapter(), initial=True)
        for node in (*EDGES, *CLIENTS[:3]):
            await at.join(run, node)
    async with site(tmp_path, clock) as at:
        await at.join(run, "client-4")
        await at.reach(run, TRAINING)


@run_async
async def test_answers_that_do_not_fit_are_refused(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.reach(run, ENROLLING)
        await at.register(edges=(), clients=("other",), datasets=("other",))
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "not offered to other"):
            await at.refuse(run, "other", "no")
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "answer"):
            await at.fleet.JoinRun(fleet_pb2.JoinRunRequest(run_id=run, node_id="client-1"))
        for node, offer, word in (
            ("client-1", {"edge": {"room": 2}}, "registered as client"),
            ("edge-1", {"edge": {"room": 0}}, "edge.room"),
            ("client-1", {"client": {"train_rows": 1, "heldout_rows": 1}}, "links"),
            ("edge-1", {"edge": {"room": 2**32 - 1}}, "edge.room"),
            ("client-1", {"client": {"train_rows": 2**64 - 1, "heldout_rows": 1}}, "train_rows"),
            ("client-1", {"client": {"train_rows": 0, "heldout_rows": 1}}, "train_rows"),
            ("client-1", {"client": {**ROWS, "links": [{"edge_id": "edge-9"}]}}, "'edge-9' is no edge of the run"),
            ("client-1", {"client": {**ROWS, "links": [{"edge_id": "client-2"}]}}, "is no edge of the run"),
            ("client-1", {"client": {**ROWS, "links": [{"edge_id": f"e{n}"} for n in range(1025)]}}, "1024"),
            ("client-1", {"client": {**ROWS, "links": [{"edge_id": "edge-1"}] * 2}}, "twice"),
        ):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, word):
                await at.fleet.JoinRun(fleet_pb2.JoinRunRequest(run_id=run, node_id=node, **offer))


@run_async
async def test_same_answer_twice_is_one_event(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(spec(fleet={"min_clients": 3}))
        await at.reach(run, ENROLLING)
        await at.join(run, "client-1")
        await at.join(run, "client-1")
        await at.refuse(run, "client-1", "changed my mind")
        await at.join(run, "client-1")
        sequence = (await at.wait(run, lambda event: event.sequence == 5)).sequence
        assert sequence == 5  # submitted, offered, joined, refused, joined


@run_async
async def test_names_addresses_and_the_size_of_the_fleet_are_checked(tmp_path):
    async with site(tmp_path, max_nodes=6) as at:
        await at.register()
        await at.register()
        for call, code, word in (
            (at.register(edges=(), clients=("a b",)), grpc.StatusCode.INVALID_ARGUMENT, "a b"),
            (at.register(edges=("client-1",)), grpc.StatusCode.PERMISSION_DENIED, "registered as client"),
            (at.register(edges=("edge-3",)), grpc.StatusCode.RESOURCE_EXHAUSTED, "6 nodes"),
        ):
            async with refused(code, word):
                await call
        for address in (
            "nowhere",
            ":1",
            "h:0",
            "h:65536",
            "h:²",
            "a b:1",
            "h\n:1",
            f"{'h' * 256}:1",
            "h:000000001",
            *SCHEMED,
        ):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "host:port"):
                request = fleet_pb2.RegisterEdgeRequest(edge_id="edge-1", address=address, capacity=1)
                await at.fleet.RegisterEdge(request)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "capacity"):
            await at.fleet.RegisterEdge(fleet_pb2.RegisterEdgeRequest(edge_id="edge-1", address="[::1]:65535"))
        for datasets in (("a b",), ("",), ("x" * 64,), [f"d{n}" for n in range(65)]):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "datasets"):
                await at.register(edges=(), clients=("client-1",), datasets=datasets)
