"""Blobs that nothing refers to are swept; none in use ever is, and a full disk leaves nothing half written."""

import asyncio
import errno
import os
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import fsspec
import grpc
import pytest
from cloud_harness import EDGES, adapter, refused, run_async, site, spec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.errors import InputError
from elsa.v1 import adapter_pb2
from elsa.wire.adapter import sha256
from services.cloud.blobs import Blobs
from services.cloud.keeper import Keeper
from services.cloud.lifecycle import RunState
from services.cloud.records import Node, Role, Run
from services.cloud.round_records import Round, Update
from services.cloud.store import Store

OLD_S = 10_000
LETTERS = (b"a", b"b", b"c")


@asynccontextmanager
async def keeping(folder):
    store = Store("sqlite://")
    run = Run(
        run_id="r", number=1, name="r", state=RunState.TRAINING, spec="", rounds=9, version=0, created_unix_s=0.0
    )
    with store.transaction() as transaction:
        transaction.put(run)
        transaction.put(Node(node_id="edge-1", role=Role.EDGE))
    blobs = Blobs(str(folder))
    yield store, blobs, Keeper(store, blobs)
    store.close()


def update(digest, version=0):
    return Update(run_id="r", version=version, edge_id="edge-1", rows=1, sha256=digest)


def kept(folder):
    return {path.name for path in Path(folder).glob("??/*")}


@run_async
async def test_what_a_killed_push_left_is_swept_once_it_is_old(tmp_path):
    async with keeping(tmp_path) as (store, blobs, keeper):
        left, used = blobs.put(b"left"), blobs.put(b"used")
        (tmp_path / "aside" / "half").write_bytes(b"ha")
        with store.transaction() as transaction:
            transaction.put(update(used))
        assert await keeper.sweep(60, time.time()) == 0
        assert kept(tmp_path) == {left, used}
        assert await keeper.sweep(60, time.time() + 61) == 2
        assert kept(tmp_path) == {used} and not list((tmp_path / "aside").iterdir())


@run_async
async def test_versions_and_updates_that_wait_are_kept_and_those_of_closed_rounds_are_not(tmp_path):
    async with keeping(tmp_path) as (store, blobs, keeper):
        version, waiting, past = blobs.put(b"version"), blobs.put(b"waiting"), blobs.put(b"past")
        with store.transaction() as transaction:
            transaction.put(Round(run_id="r", version=0, opened_unix_s=0.0, sha256=version))
            transaction.put(update(past, version=0))
            transaction.put(update(waiting, version=1))
            transaction.put(Run(**{**vars(transaction.run("r")), "version": 1}))
        assert await keeper.sweep(60, time.time() + OLD_S) == 1
        assert kept(tmp_path) == {version, waiting}
        assert past not in kept(tmp_path)


def immutable(blobs, monkeypatch, names):
    """From now on files of these names cannot be removed."""
    remove = blobs._files.rm_file

    def refuse(path):
        if path.rpartition("/")[2] in names:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        remove(path)

    monkeypatch.setattr(blobs._files, "rm_file", refuse)


@pytest.mark.parametrize("first", [0, 25])
def test_blobs_that_cannot_be_deleted_keep_no_others_from_being_swept(tmp_path, monkeypatch, first):
    monkeypatch.setattr("services.cloud.keeper.MOST_TRIED", 20)

    @run_async
    async def test(folder):
        async with keeping(folder) as (_, blobs, keeper):
            digests = sorted(blobs.put(b"%d" % number) for number in range(60))
            stuck = set(digests[first : first + 25])
            immutable(blobs, monkeypatch, stuck)
            for _ in range(60 // 20):
                before = kept(folder)
                went = await keeper.sweep(60, time.time() + OLD_S)
                assert went == len(before) - len(kept(folder)) <= 20
            assert kept(folder) == stuck

    test(tmp_path)


def test_blobs_of_one_beginning_that_cannot_be_deleted_keep_no_others_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("services.cloud.keeper.MOST_TRIED", 2)

    @run_async
    async def test(folder):
        async with keeping(folder) as (_, blobs, keeper):
            (folder / "ab").mkdir()
            names = [f"ab{number:062x}" for number in range(5)]
            for name in (*names, "no digest"):
                (folder / "ab" / name).write_bytes(b"old")
            immutable(blobs, monkeypatch, names[:3])
            for _ in range(3):
                await keeper.sweep(60, time.time() + OLD_S)
            assert kept(folder) == {*names[:3], "no digest"}

    test(tmp_path)


@run_async
async def test_what_was_written_aside_and_cannot_be_removed_keeps_no_blobs_from_being_swept(tmp_path):
    async with keeping(tmp_path) as (_, blobs, keeper):
        blobs.put(b"left")
        for name in ("half", "stuck"):
            (tmp_path / "aside" / name).write_bytes(b"ha")
        with pytest.MonkeyPatch.context() as patched:
            immutable(blobs, patched, {"stuck"})
            assert await keeper.sweep(60, time.time() + OLD_S) == 2
        assert not kept(tmp_path) and [path.name for path in (tmp_path / "aside").iterdir()] == ["stuck"]


async def write(store, keeper, data, pause):
    """Put a blob and its record, as a push does, with another task's turns between."""
    async with keeper.holding(sha256(data)):
        await keeper.put(data)
        for _ in range(pause):
            await asyncio.sleep(0)
        with store.transaction() as transaction:
            transaction.put(update(sha256(data)))


async def forget(store, keeper, data):
    """Forget a record and drop its blob, as a round that closes does."""
    with store.transaction() as transaction:
        for found in transaction.all(Update, sha256=sha256(data)):
            transaction.delete(found)
    await keeper.drop([sha256(data)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "forget", "sweep"]), st.sampled_from(LETTERS), st.integers(0, 30)),
        max_size=12,
    )
)
def test_no_interleaving_of_pushes_drops_and_sweeps_loses_a_blob_in_use(acts):
    async def all_at_once(folder):
        async with keeping(folder) as (store, blobs, keeper):
            for data in LETTERS:  # as old orphans
                blobs.put(data)
            tasks = []
            for kind, data, pause in acts:
                if kind == "write":
                    tasks.append(asyncio.create_task(write(store, keeper, data, pause)))
                elif kind == "forget":
                    tasks.append(asyncio.create_task(forget(store, keeper, data)))
                else:
                    tasks.append(asyncio.create_task(keeper.sweep(60, time.time() + OLD_S)))
                for _ in range(pause):
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            with store.transaction() as transaction:
                needed = transaction.needed()
            assert needed <= kept(folder)
            await keeper.sweep(60, time.time() + OLD_S)
            assert kept(folder) == needed

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(all_at_once(folder))


def dropping(monkeypatch):
    """From now on each blob is dropped once it is put; those who drop get the turns that they can use.

    Returns the tasks that drop.
    """
    put, tasks = Keeper.put, []

    async def at_once(function, *args, **kwargs):
        return function(*args, **kwargs)

    async def put_and_drop(self, data):
        await put(self, data)
        tasks.append(asyncio.create_task(self.drop([sha256(data)])))
        for _ in range(20):
            await asyncio.sleep(0)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(Keeper, "put", put_and_drop)
    return tasks


def test_who_drops_the_blob_of_a_push_waits_for_its_record(tmp_path, monkeypatch):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            tasks = dropping(monkeypatch)
            assert await at.push(run, "edge-1", adapter(1))
            await asyncio.gather(*tasks)
            assert tasks and sha256(adapter(1)) in kept(folder / "cloud" / "blobs")

    test(tmp_path)


def test_who_drops_the_blob_of_a_version_waits_for_its_record(tmp_path, monkeypatch):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            tasks = dropping(monkeypatch)
            for edge, value in zip(EDGES, (1, 3), strict=True):
                assert await at.push(run, edge, adapter(value))
            await at.closed(run, 1)
            await asyncio.gather(*tasks)
            assert kept(folder / "cloud" / "blobs") == {sha256(adapter(0)), sha256(adapter(2))}

    test(tmp_path)


@run_async
async def test_the_cloud_sweeps_at_its_start(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        clock = at.clock
    blobs = Blobs(str(tmp_path / "cloud" / "blobs"))
    orphan = blobs.put(b"left by a kill")
    clock.now = time.time() + OLD_S
    async with site(tmp_path, clock) as at:
        while blobs.has(orphan):
            await asyncio.sleep(0)
        assert (await at.pull(run, "edge-1", 0))[0] == 0


@run_async
async def test_blobs_of_another_database_are_not_touched(tmp_path):
    async with site(tmp_path):
        pass
    url = f"sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(InputError, match="belong to another database"):
        async with site(tmp_path, database_url=url):
            raise AssertionError("it serves")


@run_async
async def test_an_update_whose_blob_is_gone_is_delivered_again(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        await at.push(run, "edge-1", adapter(1))
        clock = at.clock
    Blobs(str(tmp_path / "cloud" / "blobs")).delete(sha256(adapter(1)))
    async with site(tmp_path, clock) as at:
        assert await at.push(run, "edge-1", adapter(1))
        await at.push(run, "edge-2", adapter(3))
        await at.closed(run, 1)


def filling(monkeypatch, code=errno.ENOSPC):
    """From now on a file's bytes find no room as they go to the disk."""

    def fsync(_file):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_during_a_push_is_said_with_the_figures_and_leaves_nothing(tmp_path, monkeypatch, code):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            before = kept(folder / "cloud" / "blobs")
            with monkeypatch.context() as full:
                filling(full, code)
                async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{len(adapter(1))} bytes are needed", "free"):
                    await at.push(run, "edge-1", adapter(1))
            assert kept(folder / "cloud" / "blobs") == before
            assert not list((folder / "cloud" / "blobs" / "aside").iterdir())
            for edge in EDGES:
                assert await at.push(run, edge, adapter(1))
            await at.closed(run, 1)

    test(tmp_path)


def failing(monkeypatch, name):
    """From now on the file system of blobs fails in one of its calls."""

    def fail(self, *args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(LocalFileSystem, name, fail)


def test_a_fault_of_the_disk_during_a_push_is_one_that_passes_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            before = kept(folder / "cloud" / "blobs")
            with monkeypatch.context() as faulty:
                failing(faulty, "mv")
                async with refused(grpc.StatusCode.UNAVAILABLE, "blobs cannot be kept", os.strerror(errno.EIO)):
                    await at.push(run, "edge-1", adapter(1))
            assert "a blob cannot be kept" in caplog.text and kept(folder / "cloud" / "blobs") == before
            assert await at.push(run, "edge-1", adapter(1))

    test(tmp_path)


def test_a_fault_of_the_disk_during_a_pull_is_one_that_passes(tmp_path, monkeypatch, caplog):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            with monkeypatch.context() as faulty:
                failing(faulty, "cat_file")
                async with refused(grpc.StatusCode.UNAVAILABLE, "blobs cannot be read", os.strerror(errno.EIO)):
                    await at.pull(run, "edge-1", 0)
            assert "a blob cannot be read" in caplog.text
            assert (await at.pull(run, "edge-1", 0))[0] == 0

    test(tmp_path)


def test_a_fault_of_the_disk_as_a_round_closes_fails_no_run(tmp_path, monkeypatch):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started()
            await at.push(run, "edge-1", adapter(1))
            waited = asyncio.Event()

            async def pause(_seconds):
                faulty.undo()
                waited.set()

            monkeypatch.setattr(at.cloud.engine, "_sleep", pause)
            with pytest.MonkeyPatch.context() as faulty:
                failing(faulty, "cat_file")
                await at.push(run, "edge-2", adapter(3))
                await asyncio.wait_for(waited.wait(), 20)
            await at.closed(run, 1)

    test(tmp_path)


@run_async
async def test_a_push_for_which_there_is_no_room_is_refused_before_its_bytes_come(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started()
        with pytest.MonkeyPatch.context() as full:
            full.setattr(Blobs, "free_bytes", lambda _: 1000)
            async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "1000 bytes free", "are needed"):
                await at.push(run, "edge-1", adapter(1))
        assert await at.push(run, "edge-1", adapter(1))


@run_async
async def test_a_full_database_during_a_push_is_said_and_leaves_nothing(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(training={"rounds": 1}))
        before = kept(tmp_path / "cloud" / "blobs")
        store = at.cloud.engine._store
        moved = [1 / 3] * 256
        told = [
            adapter_pb2.ClientReport(client_id=f"client-{n}", rows=1, steps=1, loss=1.0, moved=moved) for n in (1, 3)
        ]
        with store._database.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "database found no room on its disk"):
            await at.push(run, "edge-1", adapter(1), reports=told)
        assert kept(tmp_path / "cloud" / "blobs") == before
        with store._database.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert await at.push(run, "edge-1", adapter(1), reports=told)


def test_a_blob_s_name_is_on_the_disk_before_it_is_said_to_be_kept(tmp_path, monkeypatch):
    blobs, forced = Blobs(str(tmp_path)), []

    def fsync(file):
        folder = Path(f"/proc/self/fd/{file}").readlink()
        forced.append((folder, sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None))

    monkeypatch.setattr(os, "fsync", fsync)
    digest = blobs.put(b"adapter")
    assert (tmp_path / digest[:2], [digest]) in forced
    assert any(folder == tmp_path and digest[:2] in names for folder, names in forced if names is not None)


@run_async
async def test_sweeping_goes_on_after_a_fault_and_the_cloud_ends_as_it_should(tmp_path):
    tries, again = [], asyncio.Event()

    async def sweep(self, grace_s, now):
        tries.append(now)
        if len(tries) == 1:
            raise RuntimeError("an error of a bucket")
        again.set()
        return 0

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Keeper, "sweep", sweep)
        async with site(tmp_path, sweep_s=0.01):
            await asyncio.wait_for(again.wait(), 20)


class Bucket(MemoryFileSystem):
    """A file system without folders, as buckets are: what has no file in it is not there."""

    protocol = "elsabucket"
    store, pseudo_dirs = {}, [""]

    def makedirs(self, path, exist_ok=False):
        pass

    mkdir = makedirs

    def ls(self, path, detail=True, **kwargs):
        found = [name for name in self.store if name.startswith(f"{self._strip_protocol(path)}/")]
        if not found:
            raise FileNotFoundError(path)
        return found


def test_a_bucket_is_swept(tmp_path):
    fsspec.register_implementation("elsabucket", Bucket, clobber=True)

    async def sweep():
        store, blobs = Store("sqlite://"), Blobs("elsabucket://blobs-that-are-swept")
        keeper = Keeper(store, blobs)
        await keeper.claim()
        orphan = blobs.put(b"orphan")
        assert await keeper.sweep(60, time.time()) == 0 and blobs.has(orphan)
        assert await keeper.sweep(60, time.time() + OLD_S) == 1 and not blobs.has(orphan)
        assert await keeper.sweep(60, time.time() + OLD_S) == 0
        store.close()

    asyncio.run(sweep())


def test_a_bucket_whose_package_is_not_there_is_refused_naming_it():
    fsspec.register_implementation("elsano", "no_such_module.FileSystem", errtxt="Install elsanofs", clobber=True)
    with pytest.raises(InputError, match=r"Install elsanofs.*its package for fsspec") as caught:
        Blobs("elsano://bucket")
    assert "\n" not in str(caught.value)
