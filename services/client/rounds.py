"""A client's rounds with its edge: pull, evaluate what is new, train, push, until the last version."""

import logging
import threading

from elsa.errors import (
    CapacityError,
    ChecksumError,
    DrainingError,
    NotFoundError,
    PermissionDeniedError,
    RoundGivenUpError,
    StaleRoundError,
    UnreachableError,
)
from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2, run_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from services.client.trainer import RoundTrainer
from services.rpc.adapters import Pulled, pull_when_there, push
from services.rpc.channel import patiently
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
PASSING = (
    UnreachableError,
    DrainingError,
    NotFoundError,
    StaleRoundError,
    CapacityError,
    PermissionDeniedError,
    ChecksumError,
)
"""What an edge that restarts, that does not know of us yet, or that is past our round may answer for a while."""

ANYWHERE = (0, 0)
"""Whatever round the edge is in is at or past it."""


class RoundLoop:
    """All rounds of one run at this client."""

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        trainer: RoundTrainer,
        *,
        link: CloudLink,
        edge: AdapterServiceStub,
        peer: str,
        stop: threading.Event,
        patience_s: float,
    ) -> None:
        self._run_id = run_id
        self._spec = spec
        self._trainer = trainer
        self._link = link
        self._edge = edge
        self._peer = peer
        self._stop = stop
        self._patience_s = patience_s
        self._evaluated: set[int] = set()

    def run(self, version: int) -> None:
        """Work from `version` to the last one.

        A round that fails is tried again from wherever the edge is then, which may be further back after a restart;
        its error is raised once the pauses since the last success add up to `patience_s` seconds. Raises
        RoundGivenUpError if the run ends.
        """
        place, pause_s, paused_s = (version, 0), FIRST_PAUSE_S, 0.0
        while not self._stop.is_set():
            try:
                pulled = self._pull(*place)
                self._evaluate(pulled)
                if pulled.version >= self._spec.training.rounds:
                    return
                place, pause_s, paused_s = self._train(pulled), FIRST_PAUSE_S, 0.0
            except PASSING as error:
                if paused_s > self._patience_s:
                    raise
                log.warning("run %s: %s; trying the round again", self._run_id, error)
                self._stop.wait(pause_s)
                place, pause_s, paused_s = ANYWHERE, min(2 * pause_s, LONGEST_PAUSE_S), paused_s + pause_s

    def _pull(self, version: int, edge_round: int) -> Pulled:
        request = adapter_pb2.PullAdapterRequest(
            run_id=self._run_id, node_id=self._link.node_id, version=version, edge_round=edge_round
        )
        return pull_when_there(self._edge, request, self._peer, stop=self._stop, patience_s=self._patience_s)

    def _evaluate(self, pulled: Pulled) -> None:
        """Evaluate a global adapter that we have not evaluated yet, and tell the cloud."""
        if pulled.edge_round or pulled.version in self._evaluated:
            return
        score = self._trainer.evaluate(pulled)
        evaluation = run_pb2.Evaluation(
            version=pulled.version,
            rows=self._trainer.heldout_rows,
            loss=score.loss / max(score.count, 1),
            accuracy=score.correct / max(score.count, 1),
        )
        request = run_pb2.ReportEvaluationRequest(
            run_id=self._run_id, client_id=self._link.node_id, evaluation=evaluation
        )
        try:
            self._link.patiently(lambda: self._link.runs.ReportEvaluation(request, timeout=CALL_TIMEOUT_S))
        except StaleRoundError as error:  # nobody waits for it any more
            log.warning("run %s: %s", self._run_id, error)
        self._evaluated.add(pulled.version)

    def _train(self, pulled: Pulled) -> tuple[int, int]:
        """Train a round and push; the place of the next."""
        trained = self._trainer.train(pulled)
        header = adapter_pb2.AdapterHeader(
            run_id=self._run_id,
            node_id=self._link.node_id,
            version=pulled.version,
            edge_round=pulled.edge_round,
            session_id=trained.session_id,
            rows=trained.report.rows,
            reports=[trained.report],
        )
        patiently(
            lambda: push(self._edge, header, trained.data),
            self._peer,
            limit_s=self._patience_s,
            sleep=self._sleep,
        )
        if pulled.edge_round + 1 < self._spec.training.edge_rounds:
            return pulled.version, pulled.edge_round + 1
        return pulled.version + 1, 0

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise RoundGivenUpError(f"stopped while waiting for {self._peer}")
