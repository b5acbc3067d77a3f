"""An edge's aggregate counts for as many rows as its clients offered, whatever it or they claim."""

import numpy as np
from cloud_harness import EDGES, adapter, run_async, site
from fingerprint_harness import first

from elsa.v1 import adapter_pb2


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
        assert [each.rows for each in told.update_received.reports] == [100, 0]
        await at.push(run, "edge-2", adapter(3), rows=50, reports=[report("client-2", 50)])
        assert await mean_of(at, run) == 1.0


@run_async
async def test_rows_within_the_offer_count_as_they_are_said(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for edge, value, rows in zip(EDGES, (0, 4), (30, 10), strict=True):
            await at.push(run, edge, adapter(value), rows=rows)
        assert await mean_of(at, run) == 1.0
