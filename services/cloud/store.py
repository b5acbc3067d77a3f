"""The cloud's memory: records in a SQL database, read and written in transactions.

SQLite by default, PostgreSQL by URL. Transactions are short and run on the event loop's thread, so two
of them never interleave within a process.
"""

import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    FromClause,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from elsa.errors import ElsaError, InputError, NotFoundError
from services.cloud.database import Database
from services.cloud.events import Event, KeptEvent, StateChanged
from services.cloud.lifecycle import MOVES, RunState, check_move
from services.cloud.records import Answer, Fingerprint, Installation, KeyHolder, Member, Role, Run, Standing
from services.cloud.round_records import Evaluation, Round, Update
from services.cloud.tables import (
    AWAY,
    CLUSTER_ADAPTERS,
    EVALUATIONS,
    EVENTS,
    FINGERPRINTS,
    KEY_HOLDERS,
    MEMBERS,
    METADATA,
    NODES,
    ROUNDS,
    RUNS,
    STANDINGS,
    TABLE_OF,
    UPDATES,
    WRAPPED_KEYS,
)

Record = TypeVar("Record")
_OPEN = [state for state in RunState if MOVES[state]]
_PAGE = 500
_REASON = 4000


class Transaction:
    """Reads and writes that happen together or not at all. Get one from `Store.transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, kind: type[Record], **key: object) -> Record | None:
        """The record with this whole primary key, or None."""
        found = self.all(kind, **key)
        return found[0] if found else None

    def all(self, kind: type[Record], **where: object) -> list[Record]:
        """The records with these values, in order of their primary key."""
        table = TABLE_OF[kind]
        same = [table.c[name] == value for name, value in where.items()]
        return self._select(kind, select(table).where(*same).order_by(*table.primary_key))

    def put(self, record: object) -> None:
        """Write a record; one with the same primary key is replaced."""
        table = TABLE_OF[type(record)]
        values = {column.name: getattr(record, column.name) for column in table.columns}
        same = and_(*(column == values[column.name] for column in table.primary_key))
        if not self._connection.execute(update(table).where(same).values(values)).rowcount:
            self._connection.execute(insert(table).values(values))

    def delete(self, record: object) -> None:
        """Forget the record with this one's primary key."""
        table = TABLE_OF[type(record)]
        same = and_(*(column == getattr(record, column.name) for column in table.primary_key))
        self._connection.execute(delete(table).where(same))

    def run(self, run_id: str) -> Run:
        """A run. Raises NotFoundError."""
        run = self.get(Run, run_id=run_id)
        if run is None:
            raise NotFoundError(f"no run {run_id}; list the runs to see which there are")
        return run

    def runs(self, before: int | None = None, limit: int | None = None) -> list[Run]:
        """Runs, newest first: those with a number below `before`, at most `limit`."""
        older = [] if before is None else [RUNS.c.number < before]
        return self._select(Run, select(RUNS).where(*older).order_by(RUNS.c.number.desc()).limit(limit))

    def open_runs(self) -> list[Run]:
        """Runs that have not ended, oldest first."""
        return self._select(Run, select(RUNS).where(RUNS.c.state.in_(_OPEN)).order_by(RUNS.c.number))

    def memberships(self, node_id: str) -> list[tuple[Run, Member]]:
        """The open runs that a node is offered or takes part in, oldest first."""
        wanted = (MEMBERS.c.node_id == node_id) & MEMBERS.c.answer.in_([Answer.OFFERED, Answer.JOINED])
        found = {member.run_id: member for member in self._select(Member, select(MEMBERS).where(wanted))}
        return [(run, found[run.run_id]) for run in self.open_runs() if run.run_id in found]

    def member_ids(self, run_id: str) -> dict[str, tuple[Role, Answer]]:
        """Who was offered a run, in order of their names, with their role and answer."""
        columns = select(MEMBERS.c.node_id, MEMBERS.c.role, MEMBERS.c.answer)
        found = self._connection.execute(columns.where(MEMBERS.c.run_id == run_id).order_by(MEMBERS.c.node_id))
        return {node_id: (role, answer) for node_id, role, answer in found}

    def away(self, run_id: str) -> dict[str, str]:
        """The members of a run for whom nobody waits, in order of their names, and why."""
        noted = select(AWAY.c.node_id, AWAY.c.detail).where(AWAY.c.run_id == run_id).order_by(AWAY.c.node_id)
        return {row.node_id: row.detail for row in self._connection.execute(noted)}

    def set_away(self, run_id: str, why: Mapping[str, str], not_any_more: Collection[str]) -> None:
        """Note for whom nobody waits from now on, and for whom again; thousands of them at once."""
        former = [{"name": node_id} for node_id in {*why, *not_any_more}]
        now = [{"run_id": run_id, "node_id": node_id, "detail": detail} for node_id, detail in why.items()]
        if former:
            own = (AWAY.c.run_id == run_id) & (AWAY.c.node_id == bindparam("name"))
            self._connection.execute(delete(AWAY).where(own), former)
        if now:
            self._connection.execute(insert(AWAY), now)

    def newest_evaluations(self, run_id: str) -> list[Evaluation]:
        """The evaluations of the newest version that has any."""
        newest = select(func.max(EVALUATIONS.c.version)).where(EVALUATIONS.c.run_id == run_id).scalar_subquery()
        own = (EVALUATIONS.c.run_id == run_id) & (EVALUATIONS.c.version == newest)
        return self._select(Evaluation, select(EVALUATIONS).where(own).order_by(EVALUATIONS.c.client_id))

    def without_key(self, run_id: str, maker_id: str, limit: int) -> list[KeyHolder]:
        """Clients that work on a run and have no wrapped key of it, in order of their names, but for its maker."""
        wrapped = select(WRAPPED_KEYS.c.client_id).where(WRAPPED_KEYS.c.run_id == run_id)
        works = (MEMBERS.c.run_id == run_id) & (MEMBERS.c.answer == Answer.JOINED) & MEMBERS.c.edge_id.is_not(None)
        working = select(MEMBERS.c.node_id).where(works)
        owner, own = KEY_HOLDERS.c.client_id, KEY_HOLDERS.c.run_id == run_id
        others = own & owner.in_(working) & owner.not_in(wrapped) & (owner != maker_id)
        return self._select(KeyHolder, select(KEY_HOLDERS).where(others).order_by(owner).limit(limit))

    def fingerprinted(self, run_id: str, version: int) -> set[str]:
        """The clients of a run whose fingerprints of a version are there."""
        own = (FINGERPRINTS.c.run_id == run_id) & (FINGERPRINTS.c.version == version)
        return set(self._connection.execute(select(FINGERPRINTS.c.client_id).where(own)).scalars())

    def some_fingerprints(self, run_id: str, version: int, limit: int) -> list[Fingerprint]:
        """Fingerprints of a version of a run, at most `limit`, in order of the clients' names."""
        own = select(FINGERPRINTS).where(FINGERPRINTS.c.run_id == run_id, FINGERPRINTS.c.version == version)
        return self._select(Fingerprint, own.order_by(FINGERPRINTS.c.client_id).limit(limit))

    def forget_fingerprints(self, run_id: str, *, but: int | None) -> None:
        """Delete a run's fingerprints of all versions but one."""
        others = (FINGERPRINTS.c.run_id == run_id) & (FINGERPRINTS.c.version != but)
        self._connection.execute(delete(FINGERPRINTS).where(others))

    def standings_at(self, run_id: str, edge_id: str) -> list[Standing]:
        """The standings of an edge's clients, in order of their names; none where the run did not cluster."""
        here = (MEMBERS.c.run_id == run_id) & (MEMBERS.c.edge_id == edge_id)
        own = (STANDINGS.c.run_id == run_id) & STANDINGS.c.client_id.in_(select(MEMBERS.c.node_id).where(here))
        return self._select(Standing, select(STANDINGS).where(own).order_by(STANDINGS.c.client_id))

    def needs(self, digest: str) -> bool:
        """Whether a blob is a run's or a cluster's version, or an update that an open run has yet to aggregate."""
        version = select(ROUNDS.c.run_id).where(ROUNDS.c.sha256 == digest)
        of_cluster = select(CLUSTER_ADAPTERS.c.run_id).where(CLUSTER_ADAPTERS.c.sha256 == digest)
        update = _waiting(UPDATES.c.run_id).where(UPDATES.c.sha256 == digest)
        return any(self._connection.execute(query.limit(1)).first() for query in (version, of_cluster, update))

    def needed(self) -> set[str]:
        """The digests of all blobs that `needs` is true of."""
        queries = (
            select(ROUNDS.c.sha256).where(ROUNDS.c.sha256.is_not(None)),
            select(CLUSTER_ADAPTERS.c.sha256),
            _waiting(UPDATES.c.sha256),
        )
        return {digest for query in queries for digest in self._connection.execute(query).scalars()}

    def waiting(self) -> list[Update]:
        """The updates that open runs have yet to aggregate."""
        return self._select(Update, _waiting(UPDATES))

    def newest_versions(self) -> list[Round]:
        """The versions that open runs go on from, of those that have one."""
        newest = (ROUNDS.c.run_id == RUNS.c.run_id) & (ROUNDS.c.version == RUNS.c.version)
        return self._select(Round, select(ROUNDS).join(RUNS, newest).where(RUNS.c.state.in_(_OPEN)))

    def count(self, kind: type) -> int:
        """How many records there are."""
        return self._connection.execute(select(func.count()).select_from(TABLE_OF[kind])).scalar() or 0

    def roles(self) -> dict[str, Role]:
        """Who is registered, and as what."""
        return {row.node_id: row.role for row in self._connection.execute(select(NODES.c.node_id, NODES.c.role))}

    def next_number(self) -> int:
        """The number of the next run to be submitted."""
        return (self._connection.execute(select(func.max(RUNS.c.number))).scalar() or 0) + 1

    def events(self, run_id: str, after: int) -> list[Event]:
        """The next few hundred events of a run past sequence number `after`."""
        later = (EVENTS.c.run_id == run_id) & (EVENTS.c.sequence > after)
        return self._select(Event, select(EVENTS).where(later).order_by(EVENTS.c.sequence).limit(_PAGE))

    def append(self, run_id: str, body: KeptEvent, now: float) -> None:
        """Add an event to a run."""
        last = select(func.max(EVENTS.c.sequence)).where(EVENTS.c.run_id == run_id)
        sequence = (self._connection.execute(last).scalar() or 0) + 1
        values = {"run_id": run_id, "sequence": sequence, "unix_s": now, "body": body}
        self._connection.execute(insert(EVENTS).values(values))

    def move(self, run: Run, state: RunState, now: float, reason: str = "") -> Run:
        """Put a run in another state, with its event. Raises RoundGivenUpError if that move is not allowed.

        Of a very long reason the beginning is kept: it has to go into a message.
        """
        check_move(run.run_id, run.state, state)
        reason = reason if len(reason) <= _REASON else f"{reason[:_REASON]} …"
        moved = replace(run, state=state, reason=reason)
        self.put(moved)
        self.append(run.run_id, StateChanged(state=state, reason=reason), now)
        return moved

    def rows(self, query: Select[Any]) -> list[tuple[Any, ...]]:
        """What a query of columns finds, for counts and sums."""
        return [tuple(row) for row in self._connection.execute(query)]

    def _select(self, kind: type[Record], query: Select[Any]) -> list[Record]:
        return [kind(**row) for row in self._connection.execute(query).mappings()]


class Store:
    """Opens the database at `url`, for this process alone, and makes its tables where they are missing.

    Raises InputError if it cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        try:
            _check_columns(self._database.engine)
            METADATA.create_all(self._database.engine)
            self.installation_id = self._installed()
        except SQLAlchemyError as error:
            self.close()
            reason = str(error).splitlines()[0]
            raise InputError(f"cannot open the database ({reason}); check ELSA_DATABASE_URL") from error
        except ElsaError:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction: committed at the end, rolled back on an error. Raises as `Database.begin`."""
        with self._database.begin() as connection:
            yield Transaction(connection)

    def close(self) -> None:
        """Close every connection and let another process have the database."""
        self._database.close()

    def _installed(self) -> str:
        """What tells this database from others, copies of it aside; made with it."""
        with self.transaction() as transaction:
            known = transaction.all(Installation)
            if not known:
                transaction.put(Installation(installation_id=uuid.uuid4().hex))
            return (known or transaction.all(Installation))[0].installation_id


def _waiting(what: FromClause | Column[Any]) -> Select[Any]:
    """`what` of the updates that open runs have yet to aggregate."""
    waits = (UPDATES.c.version == RUNS.c.version) & RUNS.c.state.in_(_OPEN)
    return select(what).join_from(UPDATES, RUNS, RUNS.c.run_id == UPDATES.c.run_id).where(waits)


def _check_columns(engine: Engine) -> None:
    """Raise InputError if a table was made by a version of ELSA that kept other columns."""
    there = inspect(engine)
    for table in METADATA.sorted_tables:
        if not there.has_table(table.name):
            continue
        names = {column["name"] for column in there.get_columns(table.name)}
        if odd := sorted(names ^ set(table.columns.keys())):
            raise InputError(
                f"the database was made by another version of ELSA (table {table.name}, column {odd[0]}) and is left "
                "as it is; go on with that version, or begin anew with another ELSA_STATE or ELSA_DATABASE_URL "
                "(docs/backup.md)"
            )
