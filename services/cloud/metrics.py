"""The cloud's figures for a monitor, as docs/metrics.md lists them, read when they are asked for.

What is asked comes on a thread of the listener; all of it is read on the cloud's loop, as everything else of the
database is.
"""

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import HistogramMetricFamily, Metric
from sqlalchemy import func, make_url, select

from services.cloud.engine import Engine
from services.cloud.fleet import Fleet
from services.cloud.lifecycle import RunState
from services.cloud.records import Answer, Role, Run
from services.cloud.store import Store, Transaction
from services.cloud.tables import EVALUATIONS, MEMBERS, NODES, ROUNDS, RUNS
from services.rpc.calls import Histogram
from services.rpc.metrics import gauge, gauges

ANSWER_S = 5.0
"""For the loop to answer; a scrape that takes longer fails."""
ROUND_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Bounds between which rounds' seconds are told apart."""


class CloudMetrics:
    """Of one cloud; made on its loop.

    Args:
        state: the folder of its state.
        database: URL of its database.
        clock: unix seconds, those of the rounds.
    """

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        engine: Engine,
        *,
        state: Path,
        database: str,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._fleet, self._engine = store, fleet, engine
        self._state = state
        self._database = make_url(database)
        self._loop = asyncio.get_running_loop()
        self._begin_unix_s = clock()
        self._counted: dict[str, int] = {}
        """Of runs that were open when this was last asked, the version up to which their rounds are counted."""
        self._newest = 0
        """The number of the newest run by then."""
        self._rounds = Histogram(ROUND_S)

    def collect(self) -> Iterator[Metric]:
        """See docs/metrics.md. Raises TimeoutError if the loop does not answer."""
        given_up = threading.Event()
        try:
            yield from asyncio.run_coroutine_threadsafe(self._read(given_up), self._loop).result(ANSWER_S)
        finally:
            given_up.set()
        yield gauge("elsa_cloud_state_free_bytes", "Free on the state's disk", shutil.disk_usage(self._state).free)
        if self._database.drivername.startswith("sqlite") and self._database.database:
            size = sum(path.stat().st_size for path in _files(Path(self._database.database)))
            yield gauge("elsa_cloud_database_bytes", "Size of the database's files", size)

    async def _read(self, given_up: threading.Event) -> list[Metric]:
        if given_up.is_set():  # before the loop came to it
            return []
        with self._store.transaction() as transaction:
            open_runs = transaction.open_runs()
            return [
                self._nodes(transaction),
                _runs(transaction),
                *_progress(open_runs),
                _members(transaction, open_runs),
                *_scores(transaction, open_runs),
                self._closed(transaction),
                *self._ticks(),
            ]

    def _nodes(self, transaction: Transaction) -> Metric:
        found = Counter(
            (str(role), "alive" if self._fleet.is_alive(node_id) else "silent")
            for node_id, role in transaction.rows(select(NODES.c.node_id, NODES.c.role))
        )
        every = [((str(role), state), found[str(role), state]) for role in Role for state in ("alive", "silent")]
        return gauges("elsa_cloud_nodes", "Registered nodes", ("role", "state"), every)

    def _closed(self, transaction: Transaction) -> Metric:
        """How long rounds took, with those that have closed since this was last asked.

        Told apart by run and version: a round is written down some time after that at which it closed. Runs that had
        ended by then are not read again.
        """
        new = (RUNS.c.number > self._newest) | RUNS.c.run_id.in_(self._counted)
        due = transaction.rows(select(RUNS.c.run_id, RUNS.c.number, RUNS.c.version, RUNS.c.state).where(new))
        for run_id, _, version, _ in due:
            known = self._counted.get(run_id, 0)
            if (version or 0) > known:
                self._observe(transaction, run_id, known)
        self._counted = {run_id: version or 0 for run_id, _, version, state in due if not state.ended}
        self._newest = max([self._newest, *(number for _, number, _, _ in due)])
        family = HistogramMetricFamily("elsa_cloud_round_seconds", "Seconds of global rounds that have closed")
        family.add_metric((), self._rounds.buckets(), self._rounds.sum)
        return family

    def _observe(self, transaction: Transaction, run_id: str, known: int) -> None:
        """Count the rounds of a run past version `known` that this cloud closed."""
        past = (ROUNDS.c.run_id == run_id) & (ROUNDS.c.version > known)
        here = past & (ROUNDS.c.closed_unix_s > self._begin_unix_s)
        for opened_unix_s, closed_unix_s in transaction.rows(
            select(ROUNDS.c.opened_unix_s, ROUNDS.c.closed_unix_s).where(here)
        ):
            self._rounds.observe(closed_unix_s - opened_unix_s)

    def _ticks(self) -> Iterator[Metric]:
        if self._engine.ticked_unix_s is not None:
            at = self._engine.ticked_unix_s
            yield gauge("elsa_cloud_ticked_seconds", "When deadlines were last looked at, unix seconds", at)


def _files(database: Path) -> Iterator[Path]:
    """The files of an SQLite database that are there."""
    for place in (database, database.with_name(f"{database.name}-wal")):
        if place.exists():
            yield place


def _runs(transaction: Transaction) -> Metric:
    counted = dict(transaction.rows(select(RUNS.c.state, func.count()).group_by(RUNS.c.state)))
    every = [((str(state),), counted.get(state, 0)) for state in RunState]
    return gauges("elsa_cloud_runs", "Runs by state", ("state",), every)


def _progress(runs: list[Run]) -> Iterator[Metric]:
    done = [((run.run_id,), run.version) for run in runs if run.version is not None]
    yield gauges("elsa_cloud_run_round", "Global rounds of an open run that are done", ("run_id",), done)
    most = [((run.run_id,), run.rounds) for run in runs]
    yield gauges("elsa_cloud_run_rounds", "Global rounds that an open run is to have", ("run_id",), most)


def _members(transaction: Transaction, runs: list[Run]) -> Metric:
    joined = MEMBERS.c.run_id.in_([run.run_id for run in runs]) & (MEMBERS.c.answer == Answer.JOINED)
    counts = transaction.rows(
        select(MEMBERS.c.run_id, MEMBERS.c.role, func.count())
        .where(joined)
        .group_by(MEMBERS.c.run_id, MEMBERS.c.role)
    )
    every = [((run_id, str(role)), count) for run_id, role, count in counts]
    return gauges("elsa_cloud_run_members", "Nodes that have joined an open run", ("run_id", "role"), every)


def _scores(transaction: Transaction, runs: list[Run]) -> Iterator[Metric]:
    """Loss and accuracy over all clients' rows, of the newest version of each open run that was evaluated.

    The mean of `rounds.mean_by_rows`, by the database: a scrape reads no client's evaluation onto the cloud's loop.
    """
    of_open = EVALUATIONS.c.run_id.in_([run.run_id for run in runs])
    newest = select(EVALUATIONS.c.run_id, func.max(EVALUATIONS.c.version).label("version")).where(of_open)
    last = newest.group_by(EVALUATIONS.c.run_id).subquery()
    same = (EVALUATIONS.c.run_id == last.c.run_id) & (EVALUATIONS.c.version == last.c.version)
    rows = EVALUATIONS.c.rows
    means = [func.sum(column * rows) / func.sum(rows) for column in (EVALUATIONS.c.loss, EVALUATIONS.c.accuracy)]
    scores = transaction.rows(
        select(EVALUATIONS.c.run_id, *means).join(last, same).where(rows > 0).group_by(EVALUATIONS.c.run_id)
    )
    losses = [((run_id,), loss) for run_id, loss, _ in scores]
    yield gauges("elsa_cloud_run_loss", "Held-out loss of an open run's newest version", ("run_id",), losses)
    hits = [((run_id,), accuracy) for run_id, _, accuracy in scores]
    yield gauges("elsa_cloud_run_accuracy", "Held-out accuracy of an open run's newest version", ("run_id",), hits)
