"""A specification is kept whole: who reads it, a client in any language, needs to know no default."""

from unittest import mock

import grpc
import grpc.aio
import pytest
import yaml
from cloud_harness import run_async, site, spec

from elsa.spec import RunSpec
from elsa.v1 import run_pb2

SPARSE = "preset: thrifty\ndata: {labels: [a, b]}\n"


async def submitted(at, text):
    return (await at.runs.SubmitRun(run_pb2.SubmitRunRequest(spec=text))).run_id


async def kept(at, run_id):
    return (await at.runs.GetRun(run_pb2.GetRunRequest(run_id=run_id))).run.spec


@run_async
async def test_what_a_specification_leaves_open_is_filled_in(tmp_path):
    async with site(tmp_path) as at:
        text = await kept(at, await submitted(at, SPARSE))
    assert yaml.safe_load(text)["codecs"]["h1"] == "subspace(ratio=2.0) | int4"
    assert RunSpec.from_yaml(text) == RunSpec.from_yaml(SPARSE)


@run_async
async def test_its_defaults_count_for_its_size(tmp_path):
    whole = len(RunSpec.from_yaml(SPARSE).to_yaml().encode())
    async with site(tmp_path, max_spec_bytes=whole) as at:
        await submitted(at, SPARSE)
    async with site(tmp_path / "less", max_spec_bytes=whole - 1) as at:
        with pytest.raises(grpc.aio.AioRpcError, match=f"{whole} bytes with its defaults filled in") as found:
            await submitted(at, SPARSE)
        assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@run_async
async def test_a_run_that_is_looked_at_again_is_not_parsed_again(tmp_path):
    early = {"rounds": 2, "early_stopping": {"patience": 2}}
    async with site(tmp_path) as at:
        waiting = await at.submit(spec(training=early))
        await at.cloud.engine.advance(waiting, at.clock())
        with mock.patch.object(RunSpec, "from_yaml", side_effect=AssertionError("parsed again")):
            await at.cloud.engine.advance(waiting, at.clock())
        run = await at.started(spec(name="other", training=early))
        await at.cloud.engine.advance(run, at.clock())
        with mock.patch.object(RunSpec, "from_yaml", side_effect=AssertionError("parsed again")):
            await at.cloud.engine.advance(run, at.clock())
