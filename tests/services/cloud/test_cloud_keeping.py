"""What the cloud keeps: blobs, records, and the states of a run."""

import asyncio
import sqlite3
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import ChecksumError, InputError, NotFoundError, RoundGivenUpError
from elsa.spec import RoundsSpec
from services.cloud.blobs import Blobs
from services.cloud.changes import Changes
from services.cloud.lifecycle import MOVES, RunState, check_move
from services.cloud.records import Link, Member, Node, Role, Run
from services.cloud.round_records import Update
from services.cloud.rounds import closing
from services.cloud.store import Store
from services.cloud.watch import RunWatch, watch_assignments


def test_blob_comes_back_under_its_digest(tmp_path):
    blobs = Blobs(str(tmp_path))
    digest = blobs.put(b"adapter")
    assert blobs.put(b"adapter") == digest and blobs.get(digest) == b"adapter"
    assert not list((tmp_path / "aside").iterdir())


def test_altered_and_missing_blobs_are_told_apart(tmp_path):
    blobs = Blobs(str(tmp_path))
    digest = blobs.put(b"adapter")
    place = tmp_path / digest[:2] / digest
    place.write_bytes(b"altered")
    with pytest.raises(ChecksumError, match=digest):
        blobs.get(digest)
    place.unlink()
    with pytest.raises(NotFoundError, match=digest):
        blobs.get(digest)


def test_blobs_are_kept_at_any_url():
    blobs = Blobs("memory://blobs-of-a-test")
    assert blobs.get(blobs.put(b"adapter")) == b"adapter"


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'elsa.db'}")
    yield store
    store.close()


def new_run(**given):
    return Run(run_id="a-1", number=1, name="a", spec="", rounds=1, created_unix_s=0.0, **given)


def test_records_come_back_as_they_were_put(store):
    node = Node(node_id="client-1", role=Role.CLIENT, datasets=("a", "b"))
    links = (Link(edge_id="edge-1", latency_ms=1.5),)
    member = Member(run_id="a-1", node_id="client-1", role=Role.CLIENT, links=links)
    with store.transaction() as transaction:
        for record in (node, new_run(state=RunState.PENDING), member):
            transaction.put(record)
            transaction.put(record)
    with store.transaction() as transaction:
        assert transaction.all(Node) == [node] and transaction.all(Member) == [member]


def test_failed_transaction_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.put(new_run(state=RunState.PENDING))
        raise ZeroDivisionError
    with store.transaction() as transaction:
        assert transaction.runs() == []


def test_move_is_one_event_and_only_along_the_table(store):
    with store.transaction() as transaction:
        run = new_run(state=RunState.PENDING)
        transaction.put(run)
        run = transaction.move(run, RunState.ENROLLING, 1.0)
        with pytest.raises(RoundGivenUpError, match="a-1 is enrolling"):
            transaction.move(run, RunState.COMPLETED, 2.0)
        assert transaction.run("a-1").state is RunState.ENROLLING
        assert [event.sequence for event in transaction.events("a-1", 0)] == [1]


@given(st.sampled_from(RunState), st.sampled_from(RunState))
def test_an_ended_run_stays_as_it_is_and_any_other_may_fail_or_be_cancelled(before, after):
    if before.ended:
        with pytest.raises(RoundGivenUpError):
            check_move("a-1", before, after)
    else:
        assert {RunState.FAILED, RunState.CANCELLED} <= MOVES[before]


def test_every_state_has_its_word_on_the_wire():
    from services.cloud.convert import state_to_proto

    assert sorted(state_to_proto(state) for state in RunState) == list(range(1, 9))


def test_refused_watches_leave_nothing_behind(store):
    async def watch():
        changes = Changes()
        with pytest.raises(NotFoundError, match="x is not registered"):
            await anext(watch_assignments(store, changes, "x"))
        with pytest.raises(NotFoundError, match="no run x"):
            await anext(RunWatch(store, changes, clock=float).watch("x", 0))
        assert len(changes) == 0
        changes.next(("run", "nobody waits"))
        assert len(changes) == 0
        waited = changes.next(("run", "a"))
        assert len(changes) == 1 and changes.next(("run", "a")) is waited
        changes.notify(("run", "a"))
        assert waited.is_set() and len(changes) == 0

    asyncio.run(watch())


def test_very_long_reason_is_cut(store):
    with store.transaction() as transaction:
        run = new_run(state=RunState.PENDING)
        transaction.put(run)
        assert len(transaction.move(run, RunState.FAILED, 1.0, "x" * 10**6).reason) < 4100


@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 40), st.floats(0, 20))
def test_round_closes_at_quorum_or_deadline_and_fails_only_empty(edges, quorum, came, open_s):
    names = [f"edge-{n}" for n in range(edges)]
    rounds = RoundsSpec(quorum=quorum, deadline_s=10)
    there = [
        Update(run_id="a", version=0, edge_id=name, rows=1, sha256="", cluster=cluster, parts=2)
        for place, name in enumerate(names)
        for cluster in range(2)
        if 2 * place + cluster < came
    ]
    verdict = closing(rounds, 1, names, there, open_s)
    came = came // 2  # an edge that has pushed one of two parts has not delivered
    enough = min(came, edges) >= quorum * edges - 1e-6
    assert verdict.go == ((min(came, edges) > 0 and enough) or (bool(there) and open_s >= 10))
    assert bool(verdict.failure) == (not there and open_s >= 10)


def test_a_database_of_another_version_is_refused_on_one_line(tmp_path):
    url = f"sqlite:///{tmp_path / 'elsa.db'}"
    Store(url).close()
    with closing_database(tmp_path / "elsa.db") as database:
        database.execute("ALTER TABLE updates DROP COLUMN parts")
    with pytest.raises(InputError, match=r"another version of ELSA \(table updates, column parts\)") as caught:
        Store(url)
    assert "\n" not in str(caught.value)


@contextmanager
def closing_database(path):
    database = sqlite3.connect(path)
    try:
        yield database
        database.commit()
    finally:
        database.close()
