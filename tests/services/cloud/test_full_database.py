"""A database that finds no room on its disk is said to every caller as such, fails no run, and passes."""

import asyncio

import grpc
import pytest
from cloud_harness import EDGES, adapter, refused, run_async, site, spec
from sqlalchemy.exc import DBAPIError, OperationalError

from elsa.errors import FullDiskError, UnreachableError
from elsa.v1 import fleet_pb2
from services.cloud.lifecycle import RunState
from services.cloud.store import Store


def fill(store):
    with store._database.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def free(store):
    with store._database.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


async def register(at, name):
    """A client whose record is larger than a page of the database."""
    many = [f"{n:060}" for n in range(64)]
    await at.fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id=name, datasets=many))


@run_async
async def test_calls_of_every_kind_are_told_that_there_is_no_room_and_go_on_once_there_is(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(training={"rounds": 1}))
        store = at.cloud.engine._store
        fill(store)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "database found no room on its disk"):
            for number in range(100):
                await register(at, f"big-{number}")
        assert number < 99 and (await at.get(run)).run_id == run
        free(store)
        await register(at, f"big-{number}")


@run_async
async def test_a_run_waits_while_the_database_is_full(tmp_path):
    async with site(tmp_path) as at:
        run = await at.started(spec(training={"rounds": 1}))
        engine, told = at.cloud.engine, asyncio.Event()
        take = engine._steps.take

        async def full(run_id, now):
            engine._steps.take = take
            raise FullDiskError("the cloud's database found no room on its disk")

        async def pause(seconds):
            with engine._store.transaction() as transaction:
                assert transaction.run(run).state is RunState.TRAINING
            told.set()

        engine._steps.take, engine._sleep = full, pause
        engine.kick(run)
        await asyncio.wait_for(told.wait(), 20)
        for edge in EDGES:
            assert await at.push(run, edge, adapter(1))
        await at.closed(run, 1)


class SaidError(Exception):
    """An error as pg8000 raises it."""


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("53100", FullDiskError),
        ("53300", UnreachableError),
        ("25006", UnreachableError),
        ("40001", UnreachableError),
        ("40P01", UnreachableError),
        ("57P01", UnreachableError),
        ("23505", DBAPIError),
    ],
)
def test_what_a_server_says_that_passes_is_told_from_what_does_not(tmp_path, state, error):
    store = Store(f"sqlite:///{tmp_path / 'elsa.db'}")
    with pytest.raises(error), store.transaction():
        raise OperationalError("INSERT", {}, SaidError({"C": state, "M": "in words"}))
    store.close()
