"""What docs/backup.md says of backups: a copy goes on, whatever the original did since."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from cloud_harness import EDGES, adapter, run_async, site, spec
from test_cloud_process import process

DOCS = Path(__file__).parents[3] / "docs" / "backup.md"


def commands():
    """The three lines for SQLite, as the document has them."""
    (block,) = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return block.strip().splitlines()


def back_up(folder, lines):
    for line in lines:
        subprocess.run(
            line.replace("python ", f"{sys.executable} ", 1), shell=True, check=True, cwd=folder, timeout=60
        )


def place(folder):
    return folder / "elsa-state" / "cloud"


async def one_round(at, run, version):
    for edge in EDGES:
        assert await at.push(run, edge, adapter(version + 1), version=version)
    await at.closed(run, version + 1)


@run_async
async def test_a_copy_of_a_stopped_cloud_goes_on(tmp_path):
    async with site(tmp_path, state=place(tmp_path)) as at:
        run = await at.started(spec(training={"rounds": 9}))
        await one_round(at, run, 0)
        await at.push(run, "edge-1", adapter(2), version=1)
        clock = at.clock
    shutil.copytree(place(tmp_path), tmp_path / "copy")
    async with site(tmp_path, clock, state=tmp_path / "copy") as at:
        assert not await at.push(run, "edge-1", adapter(2), version=1)
        await at.push(run, "edge-2", adapter(2), version=1)
        await at.closed(run, 2)


@run_async
async def test_a_copy_of_a_cloud_that_runs_goes_on_and_takes_again_what_was_aggregated_meanwhile(tmp_path):
    make, database, blobs = commands()
    async with site(tmp_path, state=place(tmp_path)) as at:
        run = await at.started(spec(training={"rounds": 9}))
        await one_round(at, run, 0)
        await at.push(run, "edge-1", adapter(2), version=1)
        back_up(tmp_path, [make, database])
        await at.push(run, "edge-2", adapter(4), version=1)
        await at.closed(run, 2)
        await at.cloud.engine.advance(run, at.clock())
        await one_round(at, run, 2)
        back_up(tmp_path, [blobs])
        clock = at.clock
    async with site(tmp_path, clock, state=tmp_path / "backup") as at:
        assert (await at.get(run)).version == 1
        for version in (1, 2):
            await one_round(at, run, version)
        assert (await at.pull(run, "edge-1", 0))[0] == 3
        events = [event.sequence async for event in ended(at, run)]
        assert events == list(range(1, len(events) + 1))


async def ended(at, run):
    from elsa.v1 import run_pb2

    await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
    async for event in at.events(run):
        yield event


def test_a_process_goes_on_from_the_copy(tmp_path):
    with process(tmp_path):
        pass
    (tmp_path / "cloud").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "cloud")
    with process(tmp_path) as (cloud, _):
        assert cloud.poll() is None
