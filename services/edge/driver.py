"""Takes one run through its life at this edge: load the trunk, join, and serve round after round to the end."""

import logging
import threading
from collections.abc import Collection
from contextlib import suppress
from functools import partial

from elsa.errors import (
    CapacityError,
    DrainingError,
    ElsaError,
    PeerError,
    RoundGivenUpError,
)
from elsa.model.adapter import initial_adapter
from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2, fleet_pb2
from elsa.wire.adapter import decode_adapter, encode_adapter
from elsa.wire.kept import Shelf
from services.edge.cloud_rounds import CloudRounds
from services.edge.delivery import away_of, config_to_proto, offered_rows_of, standings_of
from services.edge.fit import Fit
from services.edge.global_round import GlobalRound
from services.edge.own_trunks import Adapter
from services.edge.profile import Prepared, Profiler
from services.edge.run import EdgeRun, EdgeRuns
from services.edge.state import EdgeState
from services.edge.trunk import EdgeTrunk
from services.edge.worker import STOPPED, Worker
from services.rpc.adapters import Pulled, push
from services.rpc.ledger import Account, Ledger
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)

EDGE_SHARE = 0.9
"""Part of what is left of a global round that its edge rounds may use together; the rest is for the way to the
cloud."""


class RunDriver:
    """One run at this edge, on a thread of its own. What it fails with ends the run here, and the cloud is told.

    Args:
        spec: the run's specification as YAML.
        profiler: says what this edge can do for the run.
        shelf: the room for rows of clients that are kept.
        ledger: of this process's memory.
        state: what closed edge rounds made, on disk.
    """

    def __init__(
        self,
        run_id: str,
        spec: str,
        *,
        link: CloudLink,
        runs: EdgeRuns,
        worker: Worker,
        profiler: Profiler,
        shelf: Shelf,
        ledger: Ledger,
        state: EdgeState,
    ) -> None:
        self._run_id = run_id
        self._text = spec
        self._spec: RunSpec  # read on the run's own thread, which refuses the run if it cannot be
        self._run: EdgeRun | None = None
        self._lock = threading.Lock()
        self._link = link
        self._runs = runs
        self._worker = worker
        self._profiler = profiler
        self._shelf = shelf
        self._ledger = ledger
        self._state = state
        self._account: Account | None = None
        self._fit: Fit
        self._assigned: fleet_pb2.Assignment | None = None
        self._begun = False
        self._rejoins = False
        self._left = False
        self._may_begin = threading.Event()
        self._may_train = threading.Event()
        self._stop = threading.Event()
        self._cloud = CloudRounds(run_id, link, self._stop)
        self._thread = threading.Thread(target=self._live, name=f"run-{run_id}", daemon=True)

    def start(self) -> None:
        """See `services.rpc.drivers.RunDriver`; the first `update` begins the work."""

    def update(self, assignment: fleet_pb2.Assignment) -> None:
        """The cloud's newest word on this run."""
        if assignment.state in (fleet_pb2.RUN_STATE_WARMUP, fleet_pb2.RUN_STATE_TRAINING):
            with self._lock:
                self._assigned = assignment
                self._admit()
            self._may_begin.set()
        if assignment.state == fleet_pb2.RUN_STATE_TRAINING:
            self._may_train.set()
        if not self._begun:
            self._begun = True
            self._rejoins = assignment.state != fleet_pb2.RUN_STATE_ENROLLING
            self._thread.start()

    def stop(self) -> None:
        """The run has ended, or the edge is to stop."""
        self._stop.set()
        self._may_begin.set()
        self._may_train.set()
        ended = RoundGivenUpError(f"run {self._run_id} has ended")
        self._runs.remove(self._run_id, DrainingError(STOPPED) if self._link.stop.is_set() else ended)
        self._forget(())

    def join(self, timeout_s: float) -> None:
        """See `services.rpc.drivers.RunDriver`."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            run = self._enroll()
            self._may_begin.wait()
            if run is not None and not self._stop.is_set():
                self._warm_up(run)
            self._may_train.wait()
            if run is not None and self._assigned is not None and not self._stop.is_set():
                self._serve(run, self._assigned.version)
        except RoundGivenUpError as error:
            log.info("run %s: %s", self._run_id, error)
        except ElsaError as error:
            self._leave(error)
        except Exception as error:
            log.exception("run %s failed at this edge", self._run_id)
            self._leave(PeerError(f"{type(error).__name__}; see the log of {self._link.node_id}"))
        finally:
            self._give_back()
            if self._stop.is_set() and not self._link.stop.is_set():
                self._state.drop(self._run_id)

    def _leave(self, error: ElsaError) -> None:
        """Serve the run no more, and tell the cloud why; nothing if the run has ended anyway."""
        if self._stop.is_set():
            return
        log.error("run %s failed at this edge: %s", self._run_id, error)
        with self._lock:
            self._left = True  # an assignment that comes yet takes no room for it again
        self._runs.remove(self._run_id, DrainingError(f"this edge has left the run: {error}"))
        if self._link.refuse(self._run_id, str(error)):
            self._state.drop(self._run_id)

    def _admit(self) -> None:
        """Take the clients of the newest assignment as the members; with the lock held."""
        if self._run is None or self._assigned is None or self._account is None:
            return
        if self._left or self._stop.is_set():
            return
        if self._assigned.state == fleet_pb2.RUN_STATE_TRAINING:  # before that, more may yet come
            clients = min(len(self._assigned.client_ids), self._fit.sessions, self._runs.sessions.capacity)
            self._runs.rooms.settle(self._run_id, len(self._assigned.client_ids))
            with suppress(CapacityError):  # more than it had: sessions are refused as they open, if need be
                self._account.reserve(self._fit.promised(clients))
        told = self._assigned.HasField("clusters_version")
        version = self._assigned.clusters_version if told else None
        standings, rows = standings_of(self._assigned), offered_rows_of(self._assigned)
        away = away_of(self._assigned)
        self._run.rounds.admit(self._assigned.client_ids, standings, version, rows, away)
        self._forget(self._assigned.client_ids)

    def _give_back(self) -> None:
        """Reserve no memory for the run any more."""
        with self._lock:
            if self._account is not None:
                self._account.close()

    def _forget(self, but: Collection[str]) -> None:
        """Keep nothing of clients that are not ours any more."""
        run = self._run
        if run is not None:
            self._worker.post(lambda: run.ends.keep(but))

    def _enroll(self) -> EdgeRun | None:
        """Load the trunk, offer the first adapter and join; or refuse, saying why.

        A run that is past its enrolment, because this edge was restarted, needs the trunk alone.
        """
        try:
            self._spec = RunSpec.from_yaml(self._text, f"run {self._run_id}")
            if not self._rejoins:
                self._state.drop(self._run_id)  # of another run by this name
            account = self._account = self._ledger.begin(self._run_id, self._spec)
            prepared = self._profiler.prepared(self._spec, account.there, joins=not self._rejoins)
            self._fit, most = prepared.fit, prepared.fit.sessions
            account.reserve(self._fit.promised(min(most, self._runs.sessions.capacity)))
            run = self._load(prepared)
            room = 0 if self._rejoins else self._runs.rooms.promise(self._run_id, self._stop, most)
        except ElsaError as error:
            if self._stop.is_set() or self._rejoins:
                raise
            log.error("run %s: cannot take part: %s", self._run_id, error)
            self._give_back()
            self._link.refuse(self._run_id, str(error))
            return None
        self._runs.add(run)
        if self._stop.is_set():  # after `stop` looked for it
            self.stop()
            return None
        if self._rejoins:
            log.info("run %s: goes on with blocks %s", self._run_id, sorted(run.trunk.segment.owned))
            return run
        request = fleet_pb2.JoinRunRequest(
            run_id=self._run_id, node_id=self._link.node_id, edge=prepared.offer(self._link.node_id, room)
        )
        self._link.patiently(lambda: self._link.fleet.JoinRun(request, timeout=CALL_TIMEOUT_S))
        log.info("run %s: joined with blocks %s", self._run_id, sorted(run.trunk.segment.owned))
        return run

    def _load(self, prepared: Prepared) -> EdgeRun:
        spec, checkpoint, config = self._spec, prepared.checkpoint, prepared.config
        trunk = EdgeTrunk(spec, checkpoint, config)
        if not self._rejoins:
            first = encode_adapter(initial_adapter(checkpoint, config, len(spec.data.labels), spec.seed))
            header = adapter_pb2.AdapterHeader(
                run_id=self._run_id, node_id=self._link.node_id, rows=1, initial=True, config=config_to_proto(config)
            )
            self._link.patiently(lambda: push(self._link.adapters, header, first))
        return EdgeRun(self._run_id, spec, trunk, self._runs.sessions, self._shelf, prepared.base_digest)

    def _warm_up(self, run: EdgeRun) -> None:
        """Serve the first adapter to the clients of the time being until the run trains; nothing is aggregated."""
        with self._lock:
            self._run = run
            self._admit()
        if not self._may_train.is_set():
            pulled = self._cloud.pull(0)
            self._open_round(run, pulled, decode_adapter(pulled.data))

    def _serve(self, run: EdgeRun, version: int) -> None:
        """Serve round after round while there are clients; those of another edge may come at any time."""
        restarted = self._rejoins
        while not self._stop.is_set():
            run.rounds.wait_for_clients()
            pulled = self._cloud.pull(version)
            adapter = decode_adapter(pulled.data)
            begun = GlobalRound(run, self._state, pulled, adapter)
            if restarted and begun.resume():
                self._worker.run(partial(run.trunk.set_global, adapter))
            else:
                self._open_round(run, pulled, adapter)
            restarted = False
            if pulled.version >= self._spec.training.rounds:
                break  # clients evaluate; the run's end comes as an assignment
            left_s = pulled.left_s or self._spec.rounds.deadline_s
            made = begun.close_all(EDGE_SHARE * left_s)
            edge_rounds, clusters_version = self._spec.training.edge_rounds, run.rounds.clusters_version
            delivered = self._cloud.deliver(made, pulled.version, edge_rounds, clusters_version)
            if not delivered:
                begun.forget()
            version = pulled.version + 1 if delivered else pulled.version
        self._stop.wait()

    def _open_round(self, run: EdgeRun, pulled: Pulled, adapter: Adapter) -> None:
        """Serve a version, with the adapters of our clients' clusters beside it.

        Args:
            adapter: the run's of that version.
        """
        own = {cluster: self._cloud.pull_cluster(pulled.version, cluster) for cluster in run.rounds.clusters()}
        there = {cluster: tensors for cluster, tensors in own.items() if tensors is not None}

        def open_round() -> None:  # on the compute thread, so that no prediction falls between the two
            run.sessions.forget_round(self._run_id)
            run.trunk.set_global(adapter)
            run.rounds.open(pulled.version, 0, adapter, pulled.data, there)

        self._worker.run(open_round)
