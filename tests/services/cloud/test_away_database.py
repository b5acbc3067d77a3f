"""Who asks for a database that is away is told so, and not each after a wait of its own; commits reach the disk."""

import pytest
from cloud_harness import Clock

from elsa.errors import UnreachableError
from services.cloud.database import AWAY_S, Database


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path, clock):
    database = Database(f"sqlite:///{tmp_path / 'elsa.db'}", clock)
    yield database
    database.close()


class Silent:
    """A server that takes connections and says nothing: what pg8000 raises is no error of a database's."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        self.asked += 1
        raise TimeoutError("timed out")


def ask(database):
    with database.begin() as connection:
        return connection.exec_driver_sql("SELECT 1").scalar()


def test_a_database_that_says_nothing_is_away(database, monkeypatch):
    monkeypatch.setattr(database.engine, "connect", Silent())
    with pytest.raises(UnreachableError, match=r"database does not answer \(timed out\)"):
        ask(database)


def test_an_error_of_who_asks_is_left_as_it_is(database):
    with pytest.raises(TimeoutError), database.begin():
        raise TimeoutError
    assert ask(database) == 1


def test_calls_that_come_together_wait_for_one_timeout_and_the_next_ones_find_it_back(database, clock, monkeypatch):
    silent = Silent()
    with monkeypatch.context() as away:
        away.setattr(database.engine, "connect", silent)
        for _ in range(30):
            with pytest.raises(UnreachableError, match="timed out"):
                ask(database)
        assert silent.asked == 1
        clock.now += AWAY_S
        for _ in range(30):
            with pytest.raises(UnreachableError, match="timed out"):
                ask(database)
        assert silent.asked == 2
    clock.now += AWAY_S
    assert [ask(database) for _ in range(2)] == [1, 1]


def test_a_commit_is_on_the_disk(database):
    full = 2
    with database.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == full
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
