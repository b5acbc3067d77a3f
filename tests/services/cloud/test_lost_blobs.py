"""A cloud whose blobs are not where they were, as of a disk that is not mounted, does not start; all stays."""

import shutil

import pytest
from cloud_harness import EDGES, adapter, run_async, site, spec

from elsa.errors import InputError
from elsa.wire.adapter import sha256
from services.cloud.blobs import Blobs


async def refused_start(folder, clock, words):
    with pytest.raises(InputError, match=words) as caught:
        async with site(folder, clock):
            raise AssertionError("it serves")
    assert "\n" not in str(caught.value)


@run_async
async def test_a_database_with_versions_is_not_served_without_its_blobs_and_goes_on_once_they_are_back(tmp_path):
    async with site(tmp_path) as at:
        run, clock = await at.started(spec(training={"rounds": 9})), at.clock
        await at.push(run, "edge-1", adapter(1))
    blobs = tmp_path / "cloud" / "blobs"
    blobs.rename(tmp_path / "unmounted")
    for _ in range(2):  # the first try makes nothing that the second would take for the blobs
        await refused_start(tmp_path, clock, "has no blobs of this database")
    shutil.rmtree(blobs)
    (tmp_path / "unmounted").rename(blobs)
    async with site(tmp_path, clock) as at:
        assert not await at.push(run, "edge-1", adapter(1)), "the update that waited is forgotten"
        assert await at.push(run, "edge-2", adapter(3))
        assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)


@run_async
async def test_a_version_that_an_open_run_goes_on_from_has_to_be_there(tmp_path):
    async with site(tmp_path) as at:
        run, clock = await at.started(), at.clock
        await at.push(run, "edge-1", adapter(1))
    blobs = Blobs(str(tmp_path / "cloud" / "blobs"))
    for lost in (adapter(0), adapter(1)):
        blobs.delete(sha256(lost))
    await refused_start(tmp_path, clock, rf"version 0 of run {run}.*{sha256(adapter(0))}")
    blobs.put(adapter(0))
    blobs.put(adapter(1))
    async with site(tmp_path, clock) as at:
        assert not await at.push(run, "edge-1", adapter(1))


@run_async
async def test_a_database_without_versions_takes_new_blobs(tmp_path):
    async with site(tmp_path) as at:
        clock = at.clock
        await at.register()
    shutil.rmtree(tmp_path / "cloud" / "blobs")
    async with site(tmp_path, clock) as at:
        await at.started()
