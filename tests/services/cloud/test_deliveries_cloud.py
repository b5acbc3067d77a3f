"""An edge's delivery of a version: one attempt counts, what comes late too, and what names old clusters is mixed."""

import asyncio
import threading
from unittest import mock

import grpc
import pytest
from cloud_harness import EDGES, adapter, refused, run_async, site
from cluster_harness import clustering_run, text_of, value_of
from fingerprint_harness import first

from elsa.wire.adapter import sha256
from services.cloud import making
from services.cloud.keeper import Keeper
from services.cloud.round_records import ClusterAdapter, Update
from services.cloud.rounds import delivered

TOO_LATE = grpc.StatusCode.FAILED_PRECONDITION
HALF = {"rounds": {"quorum": 0.5}}


def kept(folder, value):
    return bool(list((folder / "cloud" / "blobs").rglob(sha256(adapter(value)))))


@run_async
async def test_a_delivery_that_was_broken_off_is_void_once_another_begins(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), cluster=0, parts=3, delivery_id="a")
        assert await at.push(run, "edge-1", adapter(2), cluster=0, delivery_id="b")
        assert not kept(tmp_path, 1)
        await at.push(run, "edge-2", adapter(7), cluster=1)
        await at.closed(run, 1)
        assert [await value_of(at, run, 1, cluster) for cluster in (None, 0, 1)] == [4.5, 2.0, 7.0]


@run_async
async def test_a_client_whose_edge_began_anew_counts_once(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), rows=20, cluster=0, parts=2, delivery_id="a")
        await at.push(run, "edge-1", adapter(1), rows=20, delivery_id="b")  # the same bytes, mixed this time
        await at.push(run, "edge-2", adapter(7), rows=10, cluster=1)
        await at.closed(run, 1)
        assert await value_of(at, run, 1) == pytest.approx((20 * 1 + 10 * 7) / 30)


@run_async
async def test_a_whole_delivery_is_not_replaced_by_another(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), cluster=0, parts=2, delivery_id="a")
        await at.push(run, "edge-1", adapter(3), cluster=1, parts=2, delivery_id="a")
        assert not await at.push(run, "edge-1", adapter(3), cluster=1, parts=2, delivery_id="b")
        for cluster in (0, 1, None):
            async with refused(TOO_LATE, "another update of edge-1"):
                await at.push(run, "edge-1", adapter(9), cluster=cluster, delivery_id="b")
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "header.delivery_id: 65 characters"):
            await at.push(run, "edge-1", adapter(9), cluster=0, delivery_id="b" * 65)


def test_parcels_of_two_attempts_make_no_delivery():
    first_part = {"run_id": "r", "version": 0, "edge_id": "e", "parts": 2, "rows": 1, "sha256": ""}
    parts = [Update(**first_part, cluster=n, delivery_id=id) for n, id in enumerate("ab")]
    assert delivered(parts) == ()
    assert delivered([*parts, Update(**first_part, cluster=2, delivery_id="b")]) == ("e",)


@run_async
async def test_an_update_that_comes_while_its_round_closes_counts_in_it(tmp_path):
    merged, inside, go = making.merged, threading.Event(), threading.Event()

    def slow(given, before):
        inside.set()
        assert go.wait(20)
        return merged(given, before)

    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of(**HALF))
        with mock.patch.object(making, "merged", slow):
            await at.push(run, "edge-1", adapter(1), cluster=0)
            assert await asyncio.to_thread(inside.wait, 20)
            assert await at.push(run, "edge-2", adapter(77), cluster=1)
            go.set()
            assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)
        assert [await value_of(at, run, 1, cluster) for cluster in (None, 0, 1)] == [39.0, 1.0, 77.0]
        await at.cloud.engine.advance(run, at.clock())
        with at.cloud.engine._store.transaction() as transaction:
            assert not any(update.moved for update in transaction.all(Update))
        assert all(kept(tmp_path, value) for value in (1, 39, 77))


@run_async
async def test_an_edge_that_delivers_anew_while_its_round_closes_fails_no_run(tmp_path):
    get, anew = Keeper.get, []

    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), cluster=0, parts=2, delivery_id="a")

        async def get_late(keeper, digest):
            if not anew:
                anew.append(True)
                await at.push(run, "edge-1", adapter(2), cluster=0, delivery_id="b")
            return await get(keeper, digest)

        with mock.patch.object(Keeper, "get", get_late):
            at.later(601)
            await at.closed(run, 1)
        assert await value_of(at, run, 1) == 2.0


@run_async
async def test_edges_are_told_from_which_version_their_clusters_hold(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        told = [await first(at, node, run) for node in (*EDGES, "client-1")]
        assert [given.HasField("clusters_version") for given in told] == [True, True, False]
        assert {given.clusters_version for given in told[:2]} == {0}


@run_async
async def test_what_names_clusters_that_do_not_hold_is_of_no_cluster(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(1), cluster=0, parts=3, clusters_version=3)
        await at.push(run, "edge-1", adapter(3), cluster=1, parts=3, clusters_version=3)
        await at.push(run, "edge-1", adapter(5), parts=3, clusters_version=3)
        await at.push(run, "edge-2", adapter(7), cluster=2, clusters_version=0)
        await at.closed(run, 1)
        assert await value_of(at, run, 1) == 4.0
        for number, edge in enumerate(EDGES):
            await at.push(run, edge, adapter(number), version=1, cluster=number, clusters_version=0)
        await at.closed(run, 2)
        with at.cloud.engine._store.transaction() as transaction:
            assert [(made.version, made.cluster) for made in transaction.all(ClusterAdapter)] == [(2, 0), (2, 1)]
