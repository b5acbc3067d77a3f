"""Rounds: what closes them, what is taken and what is not."""

import asyncio
import time
from unittest import mock

import grpc
import numpy as np
import pytest
from cloud_harness import CLIENTS, CONFIG, EDGES, adapter, refused, run_async, site, spec

from elsa.v1 import fleet_pb2, run_pb2
from elsa.wire.adapter import decode_adapter, encode_adapter, sha256
from elsa.wire.chunks import CHUNK_BYTES
from services.cloud.blobs import Blobs


@run_async
async def test_quorum_closes_a_round_without_the_rest(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(rounds={"quorum": 0.5}))
        await at.push(run, "edge-2", adapter(7))
        closed = (await at.closed(run, 1)).round_closed
        assert (list(closed.edge_ids), list(closed.missing_edge_ids)) == (["edge-2"], ["edge-1"])
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "round on version 0 is over", "pull"):
            await at.push(run, "edge-1", adapter(1))
        _, tensors = await at.pull(run, "edge-1", 1)
        assert all(np.all(tensor == 7) for tensor in tensors.values())


@run_async
async def test_deadline_closes_a_round_with_what_has_come(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(7))
        at.later(601)
        closed = (await at.closed(run, 1)).round_closed
        assert list(closed.missing_edge_ids) == ["edge-2"] and closed.seconds == 601


@run_async
async def test_deadline_without_any_update_fails_the_run(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        at.later(599)
        await at.push(run, "edge-1", adapter(7))
        await at.push(run, "edge-2", adapter(7))
        await at.closed(run, 1)
        at.later(601)
        failed = await at.reach(run, fleet_pb2.RUN_STATE_FAILED)
        assert "round 2: no edge delivered within 600 s" in failed.state_changed.reason
        assert (await at.get(run)).reason == failed.state_changed.reason
        async with refused(grpc.StatusCode.ABORTED, "without version 2"):
            await at.pull(run, "edge-1", 2)


@run_async
async def test_same_push_twice_counts_once(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        assert await at.push(run, "edge-1", adapter(1))
        assert not await at.push(run, "edge-1", adapter(1))
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "another update of edge-1"):
            await at.push(run, "edge-1", adapter(2))
        await at.push(run, "edge-2", adapter(3))
        await at.closed(run, 1)
        assert not await at.push(run, "edge-1", adapter(1))
        _, tensors = await at.pull(run, "edge-1", 1)
        assert all(np.all(tensor == 2) for tensor in tensors.values())


@run_async
async def test_updates_that_do_not_fit_are_refused_and_leave_the_round_open(tmp_path):
    async with site(tmp_path, max_adapter_bytes=10_000) as at:
        run = await at.started()
        names = decode_adapter(adapter(1))
        first, second = names
        turned = encode_adapter({first: names[first].reshape(8, 2), second: names[second]})
        renamed = encode_adapter({f"{first[:-1]}_": names[first], second: names[second]})
        assert len(turned) == len(renamed) == len(adapter(1))
        async with refused(grpc.StatusCode.DATA_LOSS, "edge-1", "SHA-256"):
            await at.push(run, "edge-1", adapter(1), sha256="0" * 64)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "10000"):
            await at.push(run, "edge-1", adapter(1, size=9_999))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "total_bytes", "edge-1", "version 0 has"):
            await at.push(run, "edge-1", adapter(1, size=9))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "lora_A", "edge-1"):
            await at.push(run, "edge-1", turned)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "edge-1", "missing"):
            await at.push(run, "edge-1", renamed)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "safetensors"):
            await at.push(run, "edge-1", b"x" * len(adapter(1)))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "header.config"):
            await at.push(run, "edge-1", adapter(1), config=CONFIG)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "header.rows"):
            await at.push(run, "edge-1", adapter(1), rows=0)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "version: 3"):
            await at.push(run, "edge-1", adapter(1), version=3)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "total_bytes"):
            await at.push(run, "edge-1", adapter(1), total_bytes=len(adapter(1)) + 1)
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "client-1"):
            await at.push(run, "client-1", adapter(1))
        assert kept(tmp_path) == {sha256(adapter())}
        assert await at.push(run, "edge-1", adapter(1))


async def cancel(at, run):
    await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))


def kept(folder):
    """Digests of the blobs."""
    return {path.name for path in (folder / "cloud" / "blobs").glob("??/*")}


@run_async
async def test_updates_are_forgotten_once_their_round_is_closed(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(1))
        assert kept(tmp_path) == {sha256(adapter()), sha256(adapter(1))}
        await at.push(run, "edge-2", adapter(3))
        await at.closed(run, 1)
        await at.cloud.engine.advance(run, at.clock())
        assert kept(tmp_path) == {sha256(adapter()), sha256(adapter(2))}
        assert not await at.push(run, "edge-1", adapter(1))
        assert kept(tmp_path) == {sha256(adapter()), sha256(adapter(2))}


@run_async
async def test_update_of_a_run_that_ends_while_it_is_written_leaves_no_blob(tmp_path):
    async with site(tmp_path) as at:
        run, loop, put = await at.started(), asyncio.get_running_loop(), Blobs.put

        def put_and_cancel(blobs, data):
            digest = put(blobs, data)
            asyncio.run_coroutine_threadsafe(cancel(at, run), loop).result(20)
            return digest

        with mock.patch.object(Blobs, "put", put_and_cancel):
            async with refused(grpc.StatusCode.ABORTED, "cancelled"):
                await at.push(run, "edge-1", adapter(1))
        assert kept(tmp_path) == {sha256(adapter())}


@run_async
async def test_blob_that_another_record_needs_is_never_forgotten(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        other = await at.submit()
        await at.enroll(other)
        for edge in EDGES:
            await at.push(run, edge, adapter())  # the start of both runs, the updates and the new version in one
        await at.push(other, "edge-1", adapter(1))
        await at.closed(run, 1)
        await at.push(run, "edge-1", adapter(1), version=1)  # still to be aggregated in the other run
        await at.push(run, "edge-2", adapter(3), version=1)
        await at.closed(run, 2)
        await at.cloud.engine.advance(run, at.clock())
        await at.push(other, "edge-2", adapter(3))
        await at.closed(other, 1)
        await at.cloud.engine.advance(other, at.clock())
        for pulled, version in ((run, 2), (other, 1)):
            got, tensors = await at.pull(pulled, "edge-1", version)
            assert got == version and all(np.all(tensor == 2) for tensor in tensors.values())
        assert kept(tmp_path) == {sha256(adapter(0)), sha256(adapter(2))}


@run_async
async def test_pull_of_what_is_not_there_yet_asks_to_come_again(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for wait_s in (0, 0.01):
            async with refused(grpc.StatusCode.UNAVAILABLE, "version 1", "not there yet; ask again"):
                await at.pull(run, "edge-1", 1, wait_s=wait_s)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "wait_s"):
            await at.pull(run, "edge-1", 1, wait_s=61)


@run_async
async def test_pull_gives_the_newest_past_the_one_asked_for(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        assert (await at.pull(run, "edge-1", 0))[0] == 1


@run_async
async def test_last_evaluations_are_awaited_until_the_deadline(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(training={"rounds": 1}))
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        await at.evaluate(run, "client-1", 1, loss=2.0)
        await at.evaluate(run, "client-1", 1, loss=9.0)
        at.later(599)
        await at.evaluate(run, "client-2", 1, loss=4.0)
        assert (await at.get(run)).state == fleet_pb2.RUN_STATE_TRAINING
        at.later(2)
        await at.reach(run, fleet_pb2.RUN_STATE_COMPLETED)
        (total,) = (await at.get(run)).evaluations
        assert (total.loss, total.clients) == (3.0, 2)
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "completed"):
            await at.evaluate(run, "client-3", 1)


@run_async
async def test_clients_that_are_gone_are_not_awaited_at_the_end(tmp_path):
    async with site(tmp_path, heartbeat_s=2, gone_after_s=60) as at:
        run = await at.started(spec(training={"rounds": 1}))
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        await at.silence("client-4", seconds=61)
        for client in CLIENTS[:3]:
            await at.evaluate(run, client, 1)
        await at.reach(run, fleet_pb2.RUN_STATE_COMPLETED)


@pytest.mark.parametrize("bad", [{"loss": float("nan")}, {"accuracy": 1.5}, {"rows": 0}, {"version": 5}])
def test_evaluations_out_of_bounds_are_refused(tmp_path, bad):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"evaluation.{next(iter(bad))}"):
                await at.evaluate(run, "client-1", **{"version": 0, **bad})

    test(tmp_path)


@run_async
async def test_round_of_large_adapters_needs_no_timer(tmp_path):
    size = 19_000  # 304 kB in all, more than one round trip's window but one chunk
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit(spec(training={"rounds": 8}))
        await at.enroll(run, data=adapter(0, size))
        begin = time.monotonic()
        for version in range(4):
            for edge in EDGES:
                await at.push(run, edge, adapter(version, size), version=version)
            for edge in EDGES:
                assert (await at.pull(run, edge, version + 1))[0] == version + 1
        assert (time.monotonic() - begin) / 4 < 1.0  # the timer of this cloud ticks once a minute
        assert len(adapter(0, size)) < CHUNK_BYTES


@run_async
async def test_adapters_of_many_chunks_arrive_whole(tmp_path):
    async with site(tmp_path) as at:
        await at.register()
        run = await at.submit()
        await at.enroll(run, data=adapter(0, 200_000))
        for edge in EDGES:
            await at.push(run, edge, adapter(3, 200_000))
        _, tensors = await at.pull(run, "edge-1", 1)
        assert all(np.all(tensor == 3) and tensor.shape == (2, 200_000) for tensor in tensors.values())
