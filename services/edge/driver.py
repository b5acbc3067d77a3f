"""Takes one run through its life at this edge: load the trunk, join, and serve round after round to the end."""

import logging
import threading

from elsa.errors import ElsaError, RoundGivenUpError, StaleRoundError
from elsa.model.adapter import adapter_config, initial_adapter
from elsa.model.adapter_config import AdapterConfig
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2, fleet_pb2
from elsa.wire.adapter import decode_adapter, encode_adapter
from services.edge.run import EdgeRun, EdgeRuns
from services.edge.trunk import EdgeTrunk
from services.edge.worker import Worker
from services.rpc.adapters import Pulled, pull_when_there, push
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)

EDGE_SHARE = 0.9
"""Part of the global round's deadline that its edge rounds may use together; the rest is for the way to the cloud."""


class RunDriver:
    """One run at this edge, on a thread of its own.

    Args:
        memory_bytes: what the trunk's weights may take.
    """

    def __init__(
        self, run_id: str, spec: RunSpec, *, link: CloudLink, runs: EdgeRuns, worker: Worker, memory_bytes: int
    ) -> None:
        self._run_id = run_id
        self._spec = spec
        self._link = link
        self._runs = runs
        self._worker = worker
        self._memory_bytes = memory_bytes
        self._training: fleet_pb2.Assignment | None = None
        self._begun = False
        self._rejoins = False
        self._may_train = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"run-{run_id}", daemon=True)

    def start(self) -> None:
        """See `services.rpc.node.RunDriver`; the first `update` begins the work."""

    def update(self, assignment: fleet_pb2.Assignment) -> None:
        """The cloud's newest word on this run."""
        if assignment.state == fleet_pb2.RUN_STATE_TRAINING and not self._may_train.is_set():
            self._training = assignment
            self._may_train.set()
        if not self._begun:
            self._begun = True
            self._rejoins = assignment.state != fleet_pb2.RUN_STATE_ENROLLING
            self._thread.start()

    def stop(self) -> None:
        """The run has ended, or the edge is to stop."""
        self._stop.set()
        self._may_train.set()
        self._runs.remove(self._run_id)

    def join(self, timeout_s: float) -> None:
        """See `services.rpc.node.RunDriver`."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            run = self._enroll()
            self._may_train.wait()
            if run is not None and self._training is not None and not self._stop.is_set():
                self._serve(run, self._training)
        except RoundGivenUpError as error:
            log.info("run %s: %s", self._run_id, error)
        except ElsaError as error:
            if not self._stop.is_set():
                log.error("run %s failed at this edge: %s", self._run_id, error)
            self._runs.remove(self._run_id)
        except Exception:
            log.exception("run %s failed at this edge", self._run_id)
            self._runs.remove(self._run_id)

    def _enroll(self) -> EdgeRun | None:
        """Load the trunk, offer the first adapter and join; or refuse, saying why.

        A run that is past its enrolment, because this edge was restarted, needs the trunk alone.
        """
        try:
            run = self._load()
        except ElsaError as error:
            if self._stop.is_set() or self._rejoins:
                raise
            log.error("run %s: cannot take part: %s", self._run_id, error)
            self._answer(fleet_pb2.JoinRunRequest(refusal=str(error)))
            return None
        self._runs.add(run)
        if self._stop.is_set():  # after `stop` looked for it
            self._runs.remove(self._run_id)
            return None
        if self._rejoins:
            log.info("run %s: goes on with blocks %s", self._run_id, sorted(run.trunk.segment.owned))
            return run
        self._answer(fleet_pb2.JoinRunRequest(edge=fleet_pb2.EdgeOffer(room=max(self._runs.sessions.room, 1))))
        log.info("run %s: joined with blocks %s", self._run_id, sorted(run.trunk.segment.owned))
        return run

    def _load(self) -> EdgeRun:
        spec = self._spec
        checkpoint = Checkpoint.open(spec.model.source)
        labels = len(spec.data.labels)
        config = adapter_config(checkpoint, spec.lora, spec.model.task, labels)
        trunk = self._worker.run(lambda: EdgeTrunk(spec, checkpoint, config, self._memory_bytes)).value
        if not self._rejoins:
            first = encode_adapter(initial_adapter(checkpoint, config, labels, spec.seed))
            header = adapter_pb2.AdapterHeader(
                run_id=self._run_id, node_id=self._link.node_id, rows=1, initial=True, config=config_to_proto(config)
            )
            self._link.patiently(lambda: push(self._link.adapters, header, first))
        return EdgeRun(self._run_id, spec, trunk, self._runs.sessions)

    def _answer(self, request: fleet_pb2.JoinRunRequest) -> None:
        request.run_id, request.node_id = self._run_id, self._link.node_id
        self._link.patiently(lambda: self._link.fleet.JoinRun(request, timeout=CALL_TIMEOUT_S))

    def _serve(self, run: EdgeRun, assignment: fleet_pb2.Assignment) -> None:
        run.rounds.admit(assignment.client_ids)
        version = assignment.version
        while not self._stop.is_set():
            pulled = self._pull(version)
            adapter = decode_adapter(pulled.data)
            self._worker.run(lambda p=pulled, a=adapter: self._open_round(run, p, a))  # type: ignore[misc]
            if pulled.version >= self._spec.training.rounds:
                break  # clients evaluate; the run's end comes as an assignment
            self._edge_rounds(run, pulled.version)
            version = pulled.version + 1
        self._stop.wait()

    def _open_round(self, run: EdgeRun, pulled: Pulled, adapter: dict[str, object]) -> None:
        """On the compute thread, so that no prediction falls between the two."""
        run.sessions.forget_round(self._run_id)
        run.trunk.set_global(adapter)  # type: ignore[arg-type]
        run.rounds.open(pulled.version, 0, adapter, pulled.data)  # type: ignore[arg-type]

    def _edge_rounds(self, run: EdgeRun, version: int) -> None:
        """All edge rounds of a global round, and the push of what they made."""
        count = self._spec.training.edge_rounds
        deadline_s = EDGE_SHARE * self._spec.rounds.deadline_s / count
        reports, rows = [], 0
        for edge_round in range(count):
            closed = run.rounds.close(deadline_s)
            run.sessions.forget_round(self._run_id)
            reports += [adapter_pb2.ClientReport.FromString(report.message) for report in closed.reports]
            rows = closed.rows or rows
            if edge_round + 1 < count:
                run.rounds.open(version, edge_round + 1, closed.adapter)
        if not rows:
            log.warning("run %s: no client delivered in version %d; nothing to push", self._run_id, version)
            return
        header = adapter_pb2.AdapterHeader(
            run_id=self._run_id,
            node_id=self._link.node_id,
            version=version,
            edge_round=count,
            rows=rows,
            reports=reports,
        )
        self._push(header, encode_adapter(closed.adapter))

    def _push(self, header: adapter_pb2.AdapterHeader, data: bytes) -> None:
        try:
            self._link.patiently(lambda: push(self._link.adapters, header, data))
        except StaleRoundError as error:
            log.warning("run %s: came too late: %s", self._run_id, error)

    def _pull(self, version: int) -> Pulled:
        request = adapter_pb2.PullAdapterRequest(run_id=self._run_id, node_id=self._link.node_id, version=version)
        return pull_when_there(
            self._link.adapters, request, self._link.peer, stop=self._stop, patience_s=self._link.patience_s
        )


def config_to_proto(config: AdapterConfig) -> adapter_pb2.AdapterConfig:
    """The settings of an adapter as their message."""
    return adapter_pb2.AdapterConfig(
        rank=config.rank,
        alpha=config.alpha,
        target_modules=config.targets,
        modules_to_save=config.modules_to_save,
        task=config.task,
        base_model=config.base,
        transposed=config.transposed,
    )
