"""An edge that delivers other work of a version than was taken is told so, apart from all else that is late."""

import grpc
import pytest
from cloud_harness import EDGES, adapter, run_async, site

from elsa.errors import StaleRoundError, TakenError
from services.rpc.status import error_of


async def answer(at, run, **push):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await at.push(run, "edge-1", adapter(2), **push)
    return error_of(caught.value, "the cloud")


@run_async
async def test_other_work_of_a_version_is_taken_for_what_comes_twice(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(1), delivery_id="a")
        told = await answer(at, run, delivery_id="b")
        assert type(told) is TakenError and "pull version 1" in str(told)
        assert not await at.push(run, "edge-1", adapter(1), delivery_id="a")


@run_async
async def test_a_round_that_is_over_takes_nothing(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        for edge in EDGES:
            await at.push(run, edge, adapter(1))
        await at.closed(run, 1)
        assert type(await answer(at, run)) is StaleRoundError
