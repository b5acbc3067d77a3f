"""The cloud on PostgreSQL: the laws of its store, restarts of either, and one cloud at a time."""

import asyncio
import gc

import grpc
import grpc.aio
import pytest
from cloud_harness import CLIENTS, EDGES, Clock, Site, adapter, run_async, site, spec
from sqlalchemy import text
from test_cloud_process import process

from elsa.errors import InputError, UnreachableError
from elsa.v1 import fleet_pb2
from services.cloud.database import LOCK_WAIT_S
from services.cloud.lifecycle import RunState
from services.cloud.records import Link, Member, Node, Role, Run
from services.cloud.store import Store
from services.rpc.channel import OPTIONS

pytestmark = pytest.mark.postgres
COMPLETED = fleet_pb2.RUN_STATE_COMPLETED


@pytest.fixture
def store(postgres_url):
    store = Store(postgres_url)
    yield store
    store.close()


def new_run(**given):
    return Run(**{"run_id": "a-1", "number": 1, "name": "a", "spec": "", "rounds": 1, "created_unix_s": 0.5, **given})


def test_records_come_back_as_they_were_put(store):
    node = Node(node_id="client-1", role=Role.CLIENT, datasets=("a", "ö"))
    member = Member(
        run_id="a-1",
        node_id="client-1",
        role=Role.CLIENT,
        train_rows=2**40,
        links=(Link(edge_id="edge-1", latency_ms=1.5),),
    )
    with store.transaction() as transaction:
        for record in (node, new_run(state=RunState.PENDING), member):
            transaction.put(record)
            transaction.put(record)
    with store.transaction() as transaction:
        assert transaction.all(Node) == [node] and transaction.all(Member) == [member]
        assert transaction.run("a-1") == new_run(state=RunState.PENDING)


def test_names_are_in_the_order_of_their_bytes(store):
    names = ["a-1", "B.2", "b_1", "A-9", "a.1", "a1", "Z"]
    with store.transaction() as transaction:
        for name in names:
            transaction.put(Node(node_id=name, role=Role.CLIENT))
        assert [node.node_id for node in transaction.all(Node)] == sorted(names)


def test_failed_transaction_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.put(new_run(state=RunState.PENDING))
        raise ZeroDivisionError
    with store.transaction() as transaction:
        assert transaction.runs() == []


def test_a_second_cloud_is_refused_until_the_first_one_ends(store, postgres_url, monkeypatch):
    monkeypatch.setattr("services.cloud.database.LOCK_WAIT_S", 0.2)
    with pytest.raises(InputError, match="another cloud works on this database; stop it first") as caught:
        Store(postgres_url)
    assert "\n" not in str(caught.value)
    store.close()
    Store(postgres_url).close()


def test_a_second_cloud_waits_for_a_first_one_that_is_about_to_end(store, postgres_url, monkeypatch, caplog):
    paused = []

    def pause(seconds):
        paused.append(seconds)
        store.close()

    monkeypatch.setattr("services.cloud.database.time.sleep", pause)
    Store(postgres_url).close()
    assert paused and "waiting" in caplog.text  # until the server has noticed that the first one left


def test_a_server_notices_a_lost_machine_before_the_next_cloud_gives_up(store):
    with store._database.begin() as connection:
        shown = [
            int(connection.exec_driver_sql(f"SELECT setting FROM pg_settings WHERE name = '{name}'").scalar())
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        ]
    idle_s, interval_s, count, unanswered_ms = shown
    assert 0 < idle_s + interval_s * count <= 30 < LOCK_WAIT_S
    assert 0 < unanswered_ms <= 30_000


def test_who_lost_the_database_to_another_cloud_writes_nothing_and_holds_nobody_up(
    store, postgres_server, postgres_url, monkeypatch
):
    postgres_server.stop()
    postgres_server.start()
    other = Store(postgres_url)

    def pause(seconds):
        raise AssertionError("the event loop's thread sleeps")

    monkeypatch.setattr("services.cloud.database.time.sleep", pause)
    with pytest.raises(UnreachableError, match="another cloud works"), store.transaction() as transaction:
        transaction.put(new_run(state=RunState.PENDING))
    other.close()
    with store.transaction() as transaction:
        assert transaction.runs() == []


@pytest.fixture
def asked_at_once(monkeypatch):
    """A database that could not be reached is asked again without a pause."""
    monkeypatch.setattr("services.cloud.database.AWAY_S", 0.0)


def test_a_lost_connection_is_an_error_that_passes_and_leaves_nothing(store, postgres_server, asked_at_once):
    with pytest.raises(UnreachableError, match="database does not answer"), store.transaction() as transaction:
        transaction.put(new_run(state=RunState.PENDING))
        postgres_server.stop()
        transaction.runs()
    try:
        with pytest.raises(UnreachableError, match="does not answer"), store.transaction():
            pass
    finally:
        postgres_server.start()
    with store.transaction() as transaction:
        assert transaction.runs() == []


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # pg8000's, of what became no connection
def test_a_database_that_hangs_is_away_for_who_asks_and_comes_back(
    postgres_server, postgres_url, monkeypatch, asked_at_once
):
    monkeypatch.setattr("services.cloud.database.TIMEOUT_S", 2)
    store = Store(postgres_url)
    with postgres_server.hanging():
        for _ in range(2):  # one that had a connection, one that has none
            with pytest.raises(UnreachableError, match="database does not answer"), store.transaction():
                raise AssertionError("a transaction began")
    with store.transaction() as transaction:
        assert transaction.runs() == []
    store.close()
    gc.collect()


def test_a_database_of_another_version_is_refused_and_left_as_it_is(store, postgres_url):
    with store._database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE updates DROP COLUMN parts"))
        connection.execute(text("DROP TABLE courses"))
    store.close()
    with pytest.raises(InputError, match=r"another version of ELSA \(table updates, column parts\)"):
        Store(postgres_url)


def test_a_whole_run_goes_over_it_and_a_restart_of_the_cloud(tmp_path, postgres_url):
    @run_async
    async def test(folder):
        clock = Clock()
        async with site(folder, clock, database_url=postgres_url) as at:
            run = await at.started(spec(training={"rounds": 2}))
            await at.push(run, "edge-1", adapter(1))
        async with site(folder, clock, database_url=postgres_url) as at:
            assert not await at.push(run, "edge-1", adapter(1))
            await at.push(run, "edge-2", adapter(3))
            assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)
            for edge in EDGES:
                await at.push(run, edge, adapter(5), version=1)
            await at.closed(run, 2)
            for client in CLIENTS:
                await at.evaluate(run, client, 2)
            await at.reach(run, COMPLETED)
            sequences = [event.sequence async for event in at.events(run)]
            assert sequences == list(range(1, len(sequences) + 1))

    test(tmp_path)


def test_a_killed_cloud_goes_on_in_the_same_round(tmp_path, postgres_url):
    @run_async
    async def test(folder):
        for number in range(2):
            with process(folder, ELSA_DATABASE_URL=postgres_url) as (_, address):  # it is killed at the end
                async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                    at = Site(cloud=None, clock=None, channel=channel)
                    if number == 0:
                        run = await at.started()
                        await at.push(run, "edge-1", adapter(1))
                    else:
                        assert not await at.push(run, "edge-1", adapter(1))
                        assert await at.push(run, "edge-2", adapter(1))
                        assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)

    test(tmp_path)


def test_a_run_outlives_a_restart_of_the_database(tmp_path, postgres_server, postgres_url, asked_at_once):
    @run_async
    async def test(folder):
        async with site(folder, database_url=postgres_url) as at:
            run = await at.started(spec(training={"rounds": 1}))
            await at.push(run, "edge-1", adapter(1))
            await asyncio.to_thread(postgres_server.stop)
            try:
                with pytest.raises(Exception, match="UNAVAILABLE"):
                    await at.push(run, "edge-2", adapter(3))
                await at.cloud.engine.close()
            finally:
                await asyncio.to_thread(postgres_server.start)
            assert await at.push(run, "edge-2", adapter(3))
            await at.closed(run, 1)

    test(tmp_path)
