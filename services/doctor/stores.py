"""Whether a cloud's database and bucket answer, where its settings name them by URL; nothing is written to either.

By default both are in the folder of its state, which is looked at as a disk is.
"""

from pathlib import Path

from elsa.errors import first_line
from elsa.parsing import masked
from services.doctor.bounded import within
from services.doctor.finding import Finding, Kind, Verdict
from services.doctor.room import Folder, check_disk

DRIVER = "postgresql+pg8000"
NAMES = ("postgres", "postgresql", DRIVER)
"""Of PostgreSQL in a URL: whichever is written, the driver is the one that the extra `postgres` brings."""
FORM = "write postgresql://USER:PASSWORD@HOST/NAME, and what a password has of / : @ as %2F %3A %40"
IN_MEMORY = (None, "", ":memory:")


def check_database(url: str, timeout_s: float) -> Finding:
    """Whether the database at a SQLAlchemy URL lets this machine in. Its lock is not tried: a cloud may hold it."""
    from sqlalchemy import URL, create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):  # SQLAlchemy's words may hold the password
        return _found("bad", "database_url is no URL of a database", FORM)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed.database)
    if parsed.drivername not in NAMES:
        what = f"database_url: {parsed.drivername} is neither sqlite nor postgresql"
        return _found("bad", what, "give the URL of one of these (setting database_url, ELSA_DATABASE_URL)")
    place = f"the database {parsed.database or parsed.username} at {parsed.host or 'localhost'}"

    def ask(at: URL) -> str:
        engine = create_engine(at, connect_args={"timeout": timeout_s}, hide_parameters=True)
        try:
            with engine.connect() as connection:
                return str(connection.exec_driver_sql("SHOW server_version").scalar())
        finally:
            engine.dispose()

    try:
        version = within(timeout_s, lambda: ask(parsed.set(drivername=DRIVER)))
    except ImportError:
        return _found("bad", f"{place}: its driver is not installed", "pip install 'elsa[postgres]'")
    except (SQLAlchemyError, OSError, ValueError) as error:  # of time, too
        remedy = "check database_url (ELSA_DATABASE_URL): host, port, user, password, name; and that it runs"
        return _found("bad", f"{place} lets nobody in ({_told(error)})", remedy)
    return _found("good", f"{place} lets us in (PostgreSQL {version})")


def check_blobs(url: str, timeout_s: float) -> Finding:
    """Whether the bucket of an fsspec URL answers; of a folder, whether it can be written."""
    import fsspec

    def look() -> str:
        files, root = fsspec.core.url_to_fs(url)
        if "file" in files.protocol:
            return str(root)
        bucket = str(root).strip("/").partition("/")[0]
        if bucket and not files.exists(bucket):
            raise FileNotFoundError(f"there is no {bucket}, or it may not be looked into")
        return ""

    try:
        folder = within(timeout_s, look)
    except ImportError as error:
        remedy = "a bucket needs its package for fsspec, as s3fs, gcsfs or adlfs, where the cloud runs"
        return _found("bad", f"the blobs at {masked(url)} cannot be reached ({_told(error)})", remedy)
    except Exception as error:  # noqa: BLE001 - a bucket's library has errors of its own
        remedy = "check blobs_url (ELSA_BLOBS_URL), its credentials and the way there"
        return _found("bad", f"the blobs at {masked(url)} cannot be reached ({_told(error)})", remedy)
    if folder:
        return check_disk(Folder(path=Path(folder), use="blobs"))
    return _found("good", f"the bucket of {masked(url)} answers; whether it may be written is seen at the start")


def _sqlite(database: str | None) -> Finding:
    if database in IN_MEMORY:
        return _found("warn", "the database is in memory, and gone with the process", "name a file, or leave it out")
    return check_disk(Folder(path=Path(str(database)).parent, use="database"))


def _told(error: Exception) -> str:
    """Of others' words, without passwords."""
    return masked(first_line(error))[:200]


def _found(verdict: Verdict, what: str, remedy: str = "") -> Finding:
    return Finding(kind=Kind.STORE, verdict=verdict, what=what, remedy=remedy)
