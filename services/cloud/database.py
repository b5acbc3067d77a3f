"""Opens the cloud's database, SQLite or PostgreSQL, and holds it for one process alone.

Two clouds on one database would each close its rounds. On SQLite the holder has a lock on a file beside it. On
PostgreSQL it has an advisory lock that belongs to its one connection, over which all transactions go: who loses the
connection loses the lock, and writes nothing before it has both again.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from elsa.errors import FullDiskError, InputError, UnreachableError
from elsa.parsing import masked

log = logging.getLogger(__name__)

LOCK_KEY = 0x656C7361
"""Names the lock among those of a PostgreSQL database."""
TIMEOUT_S = 10
"""For an answer of PostgreSQL; nothing else happens in the cloud meanwhile."""
AWAY_S = 2.0
"""For which a database that could not be reached is not asked again: calls that came together wait for one timeout
between them, and the cloud's loop turns before the next one."""
LOCK_WAIT_S = 45.0
"""For the lock at the start: longer than the server takes to notice that its last holder's machine is gone."""
_SESSION = (
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 25000",
)
"""Has the server end a connection whose machine is silent for 25 s, and its lock with it: by itself after hours."""
_PAUSE_S = 1.0
_AWAY = ("08", "57P01", "57P02", "57P03", "53300", "25006", "40001", "40P01")
"""SQLSTATEs, or how they begin, of a PostgreSQL that lost a connection, goes down or comes up, has too many
connections, may not write for now, or gave a transaction up for another."""
_FULL = "53100"
_SQLITE_BUSY, _SQLITE_LOCKED, _SQLITE_FULL = 5, 6, 13


class Database:
    """The database at a SQLAlchemy URL. Raises InputError if it cannot be opened, or another cloud works on it.

    Args:
        monotonic: seconds, for how long the database has been away.
    """

    def __init__(self, url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lock: TextIO | None = None
        self._monotonic = monotonic
        self._away: tuple[float, str] | None = None
        try:
            parsed = _with_driver(make_url(url))
            locking = _PostgresLock(LOCK_WAIT_S)
            self.engine = _engine(parsed, locking)
            if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
                self._lock = _lock_beside(Path(parsed.database))
            self.engine.connect().close()
            locking.wait_s = 0.0  # from now on others' calls would wait with it
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            self.close()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if type(error) is ValueError:  # of a port that is no number, which may be a piece of a password
                reason = "it is no URL; write what a password has of / : @ as %2F %3A %40"
            raise InputError(f"cannot open the database ({masked(reason)}); check ELSA_DATABASE_URL") from error
        except InputError:
            self.close()
            raise

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on an error.

        Raises UnreachableError if the database is away, FullDiskError if it finds no room.
        """
        with _told():
            connection = self._connected()
            with connection, connection.begin():
                yield connection

    def _connected(self) -> Connection:
        """A connection. Raises UnreachableError, at once where there was none a moment ago."""
        if self._away is not None and self._monotonic() < self._away[0]:
            raise UnreachableError(self._away[1])
        try:
            with _told():
                connection = self.engine.connect()
        except InputError as error:  # another cloud took it over while the connection was lost
            raise UnreachableError(str(error)) from error
        except (OSError, UnreachableError) as error:  # OSError: a server takes the connection and says nothing
            told = str(error) if isinstance(error, UnreachableError) else _no_answer(str(error))
            self._away = self._monotonic() + AWAY_S, told
            raise UnreachableError(told) from error
        self._away = None
        return connection

    def close(self) -> None:
        """Close every connection and let another process have it."""
        if hasattr(self, "engine"):
            self.engine.dispose()
        if self._lock is not None:
            self._lock.close()


@contextmanager
def _told() -> Iterator[None]:
    """Within it, what the database says of being away or full is one of our errors."""
    try:
        yield
    except DBAPIError as error:
        reason = (str(error.orig).splitlines() or [""])[0]
        if is_full(error):
            raise FullDiskError(f"the cloud's database found no room on its disk ({reason}); free some") from error
        if is_away(error):
            raise UnreachableError(_no_answer(reason)) from error
        raise


def _no_answer(reason: str) -> str:
    return f"the cloud's database does not answer ({reason}); try again"


def is_away(error: DBAPIError) -> bool:
    """Whether the database could not be reached, lost the connection, or is busy; all of that passes."""
    if _sqlite_code(error) in (_SQLITE_BUSY, _SQLITE_LOCKED):
        return True
    return error.connection_invalidated or _state(error).startswith(_AWAY) or _is_lost(error)


def is_full(error: DBAPIError) -> bool:
    """Whether the database found no room on its disk."""
    return _sqlite_code(error) == _SQLITE_FULL or _state(error) == _FULL


class _PostgresLock:
    """Takes the lock with each new connection, waiting for it for at most `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def take(self, connection: Any, _record: object) -> None:
        """Without the lock the connection is closed. Raises InputError."""
        end, cursor = time.monotonic() + self.wait_s, connection.cursor()
        try:
            for setting in _SESSION:
                cursor.execute(setting)
            while not _locked(cursor):
                connection.commit()
                left_s = end - time.monotonic()
                if left_s <= 0:
                    raise InputError(_held(""))
                log.warning("another cloud has the database's lock, or had it and died; waiting %.0f s more", left_s)
                time.sleep(min(_PAUSE_S, left_s))
            connection.commit()
        except BaseException:
            connection.close()
            raise
        cursor.close()


def _locked(cursor: Any) -> bool:
    cursor.execute(f"SELECT pg_try_advisory_lock({LOCK_KEY})")
    return bool(cursor.fetchone()[0])


def _engine(url: URL, locking: _PostgresLock) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True)  # in errors, which go to the log
        event.listen(engine, "connect", _set_up_sqlite)
        return engine
    options: dict[str, Any] = {"timeout": TIMEOUT_S, "application_name": "elsa-cloud"}
    engine = create_engine(
        url, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=options, hide_parameters=True
    )
    event.listen(engine, "connect", locking.take)
    return engine


def _with_driver(url: URL) -> URL:
    """The URL with the driver that the extra `postgres` brings. Raises InputError for any other database."""
    if url.drivername in ("postgres", "postgresql", "postgresql+pg8000"):
        return url.set(drivername="postgresql+pg8000")
    if url.get_backend_name() != "sqlite":
        raise InputError(
            f"cannot open the database: {url.drivername} is neither sqlite nor postgresql+pg8000; check "
            "ELSA_DATABASE_URL"
        )
    return url


def _set_up_sqlite(connection: Any, _record: object) -> None:
    """FULL: with less, WAL loses commits when the power fails, whose blobs may be gone by then."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _lock_beside(database: Path) -> TextIO:
    file = database.with_name(f"{database.name}.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(32).strip()
        file.close()
        raise InputError(_held(f"process {holder} of this machine" if holder.isdecimal() else "")) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _held(who: str) -> str:
    return (
        f"another cloud{f', {who},' if who else ''} works on this database; stop it first, or choose another "
        "database with ELSA_STATE or ELSA_DATABASE_URL"
    )


def _state(error: DBAPIError) -> str:
    """The SQLSTATE of an error of PostgreSQL; empty for others."""
    said = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return str(said.get("C", "")) if isinstance(said, dict) else ""


def _is_lost(error: DBAPIError) -> bool:
    """Whether pg8000 says that there is no connection: an error of the interface, not of the server."""
    return type(error.orig).__module__.startswith("pg8000") and type(error.orig).__name__ == "InterfaceError"


def _sqlite_code(error: DBAPIError) -> int:
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF
