"""A run from submission to export, as nodes and operators see it."""

import asyncio
import json
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import numpy as np
from cloud_harness import CLIENTS, EDGES, Clock, Site, adapter, refused, run_async, settings, site, spec

from elsa.model.export import load_folder
from elsa.v1 import fleet_pb2, run_pb2
from elsa.wire.chunks import MAX_MESSAGE_BYTES, Assembler
from services.cloud.convert import fitting
from services.cloud.fleet_servicer import assignments_to_proto
from services.cloud.lifecycle import RunState
from services.cloud.records import Run
from services.cloud.service import serving
from services.cloud.watch import Assignment


@run_async
async def test_run_goes_from_submission_to_export(tmp_path):
    async with site(tmp_path) as at:
        run = await at.submit()
        assert (await at.get(run)).state == fleet_pb2.RUN_STATE_PENDING
        await at.register()
        await at.enroll(run)
        for version in (0, 1):
            got, tensors = await at.pull(run, "edge-1", version)
            assert got == version
            await at.push(run, "edge-1", adapter(version + 1), version=version, rows=10)
            await at.push(run, "edge-2", adapter(version + 5), version=version, rows=30)
            got, tensors = await at.pull(run, "edge-2", version + 1)
            assert got == version + 1
            assert all(np.all(tensor == version + 4) for tensor in tensors.values())
        for client in CLIENTS:
            await at.evaluate(run, client, 2)
        await at.reach(run, fleet_pb2.RUN_STATE_COMPLETED)
        done = await at.get(run)
        assert (done.version, done.rounds, list(done.client_ids)) == (2, 2, list(CLIENTS))
        assert list(done.edge_ids) == list(EDGES) and done.reason == ""
        exported = load_folder(tmp_path / "cloud" / "exports" / run / "version-2")
        assert exported.labels == ("a", "b") and exported.config.rank == 2 and exported.config.transposed
        assert all(np.all(tensor == 5) for tensor in exported.tensors.values())


@run_async
async def test_events_rise_by_one_and_tell_the_whole_story(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(training={"rounds": 1}))
        await at.push(run, "edge-1", adapter(1))
        await at.push(run, "edge-2", adapter(3))
        await at.closed(run, 1)
        for rows, client in enumerate(CLIENTS, 1):
            await at.evaluate(run, client, 1, rows=rows, loss=rows, accuracy=1 / rows)
        events = [event async for event in at.events(run)]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds == (
            ["state_changed"] * 2
            + ["node_joined"] * 6
            + ["state_changed"]
            + ["client_assigned"] * 4
            + ["state_changed", "round_opened", "update_received", "update_received", "round_closed"]
            + ["evaluation_reported"] * 4
            + ["state_changed"]
        )
        total = events[-2].evaluation_reported.total
        assert (total.version, total.rows, total.clients) == (1, 10, 4)
        assert np.isclose(total.loss, (1 + 4 + 9 + 16) / 10) and np.isclose(total.accuracy, 4 / 10)
        assert list((await at.get(run)).evaluations) == [total]


@run_async
async def test_watch_goes_on_after_a_given_event(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
        everything = [event async for event in at.events(run)]
        assert [event async for event in at.events(run, after=5)] == everything[5:]
        assert [event async for event in at.events(run, after=len(everything))] == []
        assert [event async for event in at.events(run, after=2**64 - 1)] == []


@run_async
async def test_progress_is_seen_by_those_who_watch_and_not_kept(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        watching = at.events(run)
        await anext(watching)
        await at.heartbeat("client-1", run_id=run, version=0, activity="training", step=3, steps=20)
        async for event in watching:
            if event.HasField("node_progress"):
                break
        assert event.sequence == 0
        assert (event.node_progress.node_id, event.node_progress.progress.step) == ("client-1", 3)
        await watching.aclose()
        await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
        assert not [event async for event in at.events(run) if event.HasField("node_progress")]


@run_async
async def test_who_stops_watching_takes_nothing_from_who_goes_on(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        watching = at.events(run)
        await anext(watching)
        for _ in range(8):  # more than watch since `started`
            assert [event async for event in at.runs.WatchRun(run_pb2.WatchRunRequest(run_id=run, so_far=True))]
        await at.heartbeat("client-1", run_id=run, version=0, activity="training", step=3, steps=20)
        async for event in watching:
            if event.HasField("node_progress"):
                break
        assert event.node_progress.node_id == "client-1"


@run_async
async def test_progress_is_bounded_and_printable(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        watching = at.events(run)
        await anext(watching)
        nasty = "\x1b[2Jtrain\ning\u202e" + "x" * 100
        await at.heartbeat("client-1", run_id=run, activity=nasty, loss=float("nan"))
        async for event in watching:
            if event.HasField("node_progress"):
                break
        progress = event.node_progress.progress
        assert progress.activity.startswith("[2Jtrainingx") and len(progress.activity) <= 80 and progress.loss == 0
        await watching.aclose()
        many = [fleet_pb2.Progress(run_id=run)] * 65
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "progress", "64"):
            await at.fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id="client-1", progress=many))


async def assignments(at, node):
    call = at.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=node), timeout=30)
    async for message in call:
        yield list(message.assignments)


@run_async
async def test_assignments_are_complete_and_follow_the_run(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        client, edge = assignments(at, "client-1"), assignments(at, "edge-1")
        assert await anext(client) == [] and await anext(edge) == []
        run = await at.submit()
        offer = (await anext(client))[0]
        assert (offer.run_id, offer.state) == (run, fleet_pb2.RUN_STATE_ENROLLING)
        assert [(peer.edge_id, peer.address) for peer in offer.edges] == [
            ("edge-1", "127.0.0.1:9001"),
            ("edge-2", "127.0.0.1:9002"),
        ]
        await at.enroll(run)
        async for now in client:
            if now[0].state == fleet_pb2.RUN_STATE_TRAINING:
                break
        assert [peer.edge_id for peer in now[0].edges] == ["edge-1"]
        async for now in edge:
            if now[0].state == fleet_pb2.RUN_STATE_TRAINING:
                break
        assert list(now[0].client_ids) == ["client-1", "client-3"] and now[0].version == 0
        for name in EDGES:
            await at.push(run, name, adapter(1))
        assert (await anext(edge))[0].version == 1
        await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
        async for now in edge:
            if not now:
                break


@run_async
async def test_restarted_cloud_goes_on_in_the_same_round(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run = await at.started()
        assert await at.push(run, "edge-1", adapter(1), rows=10)
        before = [event.sequence async for event in _until_update(at, run)]
    async with site(tmp_path, clock) as at:
        assert (await at.get(run)).state == fleet_pb2.RUN_STATE_TRAINING
        assert not await at.push(run, "edge-1", adapter(1), rows=10)
        assert await at.push(run, "edge-2", adapter(3), rows=10)
        closed = await at.closed(run, 1)
        assert list(closed.round_closed.edge_ids) == list(EDGES)
        assert closed.sequence == before[-1] + 2
        _, tensors = await at.pull(run, "edge-1", 1)
        assert all(np.all(tensor == 2) for tensor in tensors.values())


async def _until_update(at, run):
    async for event in at.events(run):
        yield event
        if event.HasField("update_received"):
            return


@run_async
async def test_stopping_cloud_ends_streams_with_unavailable(tmp_path):
    stack = AsyncExitStack()
    cloud = await stack.enter_async_context(serving(settings(tmp_path), Clock()))
    async with grpc.aio.insecure_channel(cloud.address) as channel:
        at = Site(cloud=cloud, clock=Clock(), channel=channel)
        await at.register()
        watching = assignments(at, "client-1")
        await anext(watching)
        await stack.aclose()
        async with refused(grpc.StatusCode.UNAVAILABLE, "going down"):
            await anext(watching)


@run_async
async def test_export_streams_a_folder_that_loads(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        call = at.runs.ExportAdapter(run_pb2.ExportAdapterRequest(run_id=run), timeout=20)
        folder = tmp_path / "got"
        folder.mkdir()
        async for message in call:
            if message.HasField("file"):
                name, whole = message.file.name, Assembler(message.file.total_bytes, "file")
            elif whole.add(message.chunk):
                (folder / name).write_bytes(whole.result())
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2
        assert load_folder(folder).config.base == "minilm"
        async with refused(grpc.StatusCode.NOT_FOUND, "version 7", "newest is 0"):
            call = at.runs.ExportAdapter(run_pb2.ExportAdapterRequest(run_id=run, version=7), timeout=20)
            [message async for message in call]


@run_async
async def test_cancelled_run_ends_for_everyone(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        pulling = asyncio.ensure_future(at.pull(run, "edge-1", 1))
        await at.push(run, "edge-1", adapter(1))
        await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
        async with refused(grpc.StatusCode.ABORTED, "cancelled"):
            await pulling
        async with refused(grpc.StatusCode.ABORTED, "cancelled"):
            await at.push(run, "edge-2", adapter(1))
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "ended already"):
            await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))


@run_async
async def test_unknown_runs_and_nodes_are_not_found(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        for call in (at.get("nope"), at.pull("nope", "edge-1", 0), at.evaluate("nope", "client-1", 0)):
            async with refused(grpc.StatusCode.NOT_FOUND, "no run nope"):
                await call
        for call in (at.heartbeat("x"), at.pull(run, "x", 0), at.join(run, "client-x")):
            async with refused(grpc.StatusCode.NOT_FOUND, "not registered"):
                await call
        async with refused(grpc.StatusCode.NOT_FOUND, "not registered"):
            await anext(assignments(at, "x"))
        with_events = at.events("nope")
        async with refused(grpc.StatusCode.NOT_FOUND, "no run nope"):
            await anext(with_events)


@run_async
async def test_runs_are_listed_newest_first(tmp_path):
    async with site(tmp_path) as at:
        names = [await at.submit(spec(name=name)) for name in ("a", "b", "a")]
        listed = (await at.runs.ListRuns(run_pb2.ListRunsRequest())).runs
        assert [run.run_id for run in listed] == names[::-1] == ["a-3", "b-2", "a-1"]


@run_async
async def test_pages_hold_every_run_once(tmp_path):
    async with site(tmp_path) as at:
        names = [await at.submit() for _ in range(5)]
        token, found = "", []
        while not found or token:
            request = run_pb2.ListRunsRequest(page_size=2, page_token=token)
            page = await at.runs.ListRuns(request)
            assert 0 < len(page.runs) <= 2
            found, token = [*found, *(run.run_id for run in page.runs)], page.next_page_token
        assert found == names[::-1]
        for bad in ("x", "-1", "9" * 30, "²"):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "page_token"):
                await at.runs.ListRuns(run_pb2.ListRunsRequest(page_token=bad))


@run_async
async def test_listed_runs_are_brief(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for version in (0, 1):
            for client in CLIENTS:
                await at.evaluate(run, client, version, loss=version + 1)
            for edge in EDGES:
                await at.push(run, edge, adapter(1), version=version)
            await at.closed(run, version + 1)
        (listed,) = (await at.runs.ListRuns(run_pb2.ListRunsRequest())).runs
        whole = await at.get(run)
        assert listed.spec == "" and whole.spec and len(whole.evaluations) == 2
        assert list(listed.evaluations) == [whole.evaluations[-1]]
        assert list(listed.client_ids) == list(whole.client_ids) == list(CLIENTS)


def runs_of(count, ids):
    return [run_pb2.Run(run_id=f"run-{n}", client_ids=[f"{k:063}" for k in range(ids)]) for n in range(count)]


def test_page_ends_where_its_message_is_full():
    for runs in (runs_of(100, 1000), runs_of(3, 1), runs_of(1, 10_000), runs_of(100, 0), []):
        shown = fitting(runs)
        assert shown == runs[: len(shown)] and (shown or not runs)
        size = run_pb2.ListRunsResponse(runs=shown, next_page_token="123456789").ByteSize()
        more = run_pb2.ListRunsResponse(runs=runs[: len(shown) + 1]).ByteSize()
        assert size <= MAX_MESSAGE_BYTES and (len(shown) == len(runs) or more > MAX_MESSAGE_BYTES - 10_000)


def test_runs_that_have_begun_come_into_a_message_before_those_that_have_not():
    def assignment(number, state):
        run = Run(run_id=f"r-{number}", number=number, name="r", state=state, spec="", rounds=1, created_unix_s=0.0)
        return Assignment(run=run, edges=(), client_ids=tuple(f"{k:063}" for k in range(5000)))

    states = [RunState.ENROLLING, RunState.TRAINING, RunState.ENROLLING, RunState.TRAINING, RunState.TRAINING]
    message = assignments_to_proto("edge-1", [assignment(*one) for one in enumerate(states)])
    assert [one.run_id for one in message.assignments] == ["r-1", "r-3", "r-4"]
    assert message.ByteSize() <= MAX_MESSAGE_BYTES


@run_async
async def test_bad_specification_names_its_field(tmp_path):
    async with site(tmp_path, max_open_runs=1) as at:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "training.rounds"):
            await at.submit("data: {labels: [a, b]}\ntraining: {rounds: 0}")
        await at.submit()
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "cancel one"):
            await at.submit()
