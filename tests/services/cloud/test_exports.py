"""An exported folder is of the adapter that was asked for, whatever an earlier cloud wrote to its place."""

import asyncio
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from cloud_harness import CLIENTS, EDGES, adapter, run_async, site, spec

from elsa.errors import FullDiskError
from elsa.model.adapter_config import AdapterConfig
from elsa.model.export import load_folder
from elsa.v1 import fleet_pb2
from elsa.wire.adapter import encode_adapter
from services.cloud.blobs import Blobs
from services.cloud.export import Exports, Made
from services.cloud.lifecycle import RunState
from services.cloud.records import Run

CONFIG = AdapterConfig(
    base="minilm", task="classification", rank=2, alpha=4.0, targets=("query",), modules_to_save=("classifier",)
)


def run_of(text=None, config=CONFIG):
    given = {"run_id": "trec-1", "number": 1, "name": "trec", "spec": text or spec(), "rounds": 2}
    return Run(**given, config=config, state=RunState.TRAINING, created_unix_s=0.0)


@pytest.fixture
def kept(tmp_path):
    blobs = Blobs(str(tmp_path / "blobs"))
    return blobs, Exports(tmp_path / "exports", blobs)


def value_of(folder):
    return {float(tensor.flat[0]) for tensor in load_folder(folder).tensors.values()}


def test_after_a_restore_a_version_made_anew_is_exported_and_not_the_lost_one(kept):
    blobs, exports = kept
    for value in (1.0, 2.0):
        folder = exports.write(run_of(), Made(version=1, sha256=blobs.put(adapter(value))))
        assert value_of(folder) == {value}
        names = [path.name for path in folder.parent.iterdir()]
        assert names == ["version-1"]


def test_a_run_that_took_the_number_of_a_lost_one_is_exported_with_its_own_words(kept):
    blobs, exports = kept
    made = Made(version=0, sha256=blobs.put(adapter()))
    exports.write(run_of(), made)
    other = spec(data={"labels": ["x", "y"]})
    assert load_folder(exports.write(run_of(other), made)).labels == ("x", "y")


def test_an_export_that_is_there_is_not_written_again(kept, monkeypatch):
    blobs, exports = kept
    made = Made(version=1, sha256=blobs.put(encode_adapter({"a.lora_A.weight": np.zeros((2, 2), np.float32)})))
    first = exports.files(run_of(), made)
    blobs.delete(made.sha256)
    assert exports.files(run_of(), made) == first


def fill(patched, code=errno.ENOSPC):
    """From now on an export's tensors find no room."""
    write = Path.write_bytes

    def full(path, data):
        if path.suffix == ".safetensors":
            raise OSError(code, os.strerror(code))
        return write(path, data)

    patched.setattr(Path, "write_bytes", full)


def test_a_full_disk_is_said_as_such_and_leaves_nothing(kept, monkeypatch, tmp_path):
    blobs, exports = kept
    made = Made(version=1, sha256=blobs.put(adapter(1.0)))
    with monkeypatch.context() as patched:
        fill(patched)
        with pytest.raises(FullDiskError, match="No space left"):
            exports.write(run_of(), made)
    assert not list((tmp_path / "exports" / "trec-1").iterdir())
    assert value_of(exports.write(run_of(), made)) == {1.0}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_run_whose_export_finds_a_faulty_disk_waits_and_completes(tmp_path, monkeypatch, code):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started(spec(training={"rounds": 1}))
            waits, again = asyncio.Event(), asyncio.Event()

            async def pause(seconds):
                waits.set()
                await again.wait()

            at.cloud.engine._sleep = pause
            with monkeypatch.context() as patched:
                fill(patched, code)
                for edge in EDGES:
                    await at.push(run, edge, adapter(1))
                await at.closed(run, 1)
                for client in CLIENTS:
                    await at.evaluate(run, client, 1)
                await asyncio.wait_for(waits.wait(), 20)
                assert (await at.get(run)).state == fleet_pb2.RUN_STATE_TRAINING
            again.set()
            await at.reach(run, fleet_pb2.RUN_STATE_COMPLETED)

    test(tmp_path)
