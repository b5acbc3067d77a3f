"""An edge's aggregate counts for as many rows as its clients offered, whatever it or they claim."""

from dataclasses import replace

import grpc
import numpy as np
from cloud_harness import CLIENTS, EDGES, adapter, refused, run_async, site
from cluster_harness import clustering_run, reports, text_of
from fingerprint_harness import first

from elsa.v1 import adapter_pb2
from services.cloud.records import Course, Member


def report(client, rows):
    return adapter_pb2.ClientReport(client_id=client, rows=rows, steps=1, loss=1.0)


async def mean_of(at, run):
    await at.closed(run, 1)
    _, tensors = await at.pull(run, "edge-1", 1)
    (value,) = {float(np.unique(tensor).item()) for tensor in tensors.values()}
    return value


@run_async
async def test_an_edge_is_told_what_its_clients_offered(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        told = await first(at, "edge-1", run)
        assert list(told.client_ids) == ["client-1", "client-3"] and list(told.train_rows) == [100, 100]


@run_async
async def test_rows_beyond_what_the_clients_offered_do_not_count(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(0), rows=2**50)
        await at.push(run, "edge-2", adapter(3), rows=100)
        told = await at.wait(run, lambda event: event.HasField("update_received"))
        assert told.update_received.rows == 200
        assert await mean_of(at, run) == 1.0


@run_async
async def test_the_clients_of_a_push_are_those_that_it_reports(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(0), rows=2**50, reports=[report("client-1", 2**40), report("x", 2**40)])
        told = await at.wait(run, lambda event: event.HasField("update_received"))
        assert told.update_received.rows == 100
        assert [(each.client_id, each.rows) for each in told.update_received.reports] == [("client-1", 100)]
        await at.push(run, "edge-2", adapter(3), rows=50, reports=[report("client-2", 50)])
        assert await mean_of(at, run) == 1.0


@run_async
async def test_rows_within_the_offer_count_as_they_are_said(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for edge, value, rows in zip(EDGES, (0, 4), (30, 10), strict=True):
            await at.push(run, edge, adapter(value), rows=rows)
        assert await mean_of(at, run) == 1.0


async def counted(at, run, edge):
    """The rows of an edge's first update, as they count."""
    told = await at.wait(run, lambda event: event.update_received.edge_id == edge)
    return told.update_received.rows


@run_async
async def test_an_edge_counts_for_no_clients_but_its_own(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(0), rows=400, reports=[report(client, 100) for client in CLIENTS])
        await at.push(run, "edge-2", adapter(3), rows=200, reports=[report(client, 100) for client in CLIENTS[1::2]])
        assert [await counted(at, run, edge) for edge in EDGES] == [200, 200]
        assert await mean_of(at, run) == 1.5


@run_async
async def test_a_client_counts_once_however_many_parts_of_a_delivery_name_it(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        for cluster in range(4):
            told = [report(f"client-{number}", 100) for number in range(1, 9)] if cluster < 3 else []
            await at.push(run, "edge-1", adapter(0), rows=2**50, cluster=cluster, parts=4, reports=told)
        await at.push(run, "edge-2", adapter(803), rows=400, cluster=1)
        assert await mean_of(at, run) == 400.0  # 803 rows in all: an update counts for one at least


@run_async
async def test_what_an_edge_says_of_others_clients_moves_no_trust_of_theirs(tmp_path):
    async with site(tmp_path) as at:
        run = await clustering_run(at, text_of())
        await at.push(run, "edge-1", adapter(0), cluster=0, reports=reports([f"client-{n}" for n in range(1, 9)]))
        await at.push(run, "edge-2", adapter(0), cluster=1)
        await at.closed(run, 1)
        with at.cloud.engine._store.transaction() as transaction:
            assert {kept.client_id for kept in transaction.all(Course)} == {f"client-{n}" for n in (1, 3, 5, 7)}


def move(at, run, client, edge):
    """Have a client train at another edge from now on."""
    with at.cloud.engine._store.transaction() as transaction:
        (member,) = transaction.all(Member, run_id=run, node_id=client)
        transaction.put(replace(member, edge_id=edge))


@run_async
async def test_clients_that_moved_count_where_they_are(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        move(at, run, "client-1", "edge-2")
        await at.push(run, "edge-1", adapter(0), rows=200, reports=[report("client-1", 100), report("client-3", 100)])
        told = [report(client, 100) for client in ("client-1", "client-2", "client-4")]
        await at.push(run, "edge-2", adapter(4), rows=300, reports=told)
        assert [await counted(at, run, edge) for edge in EDGES] == [100, 300]


@run_async
async def test_clients_whose_rows_came_from_another_edge_count_no_second_time(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(0), rows=200, reports=[report("client-1", 100), report("client-3", 100)])
        move(at, run, "client-1", "edge-2")
        told = [report(client, 100) for client in ("client-1", "client-2", "client-4")]
        await at.push(run, "edge-2", adapter(4), rows=300, reports=told)
        assert [await counted(at, run, edge) for edge in EDGES] == [200, 200]


@run_async
async def test_an_update_all_of_whose_clients_are_elsewhere_is_refused(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        move(at, run, "client-1", "edge-2")
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "client-1", "edge-1"):
            await at.push(run, "edge-1", adapter(0), rows=100, reports=[report("client-1", 100)])
        assert await at.push(run, "edge-1", adapter(1), rows=100, reports=[report("client-3", 100)])
