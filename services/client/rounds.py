"""A client's rounds with its edge: pull, evaluate what is new, train, push, until the last version."""

import logging
import threading
from collections.abc import Callable

from elsa.errors import NotFoundError, RoundGivenUpError, StaleRoundError
from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2, run_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from services.client.fingerprints import Asked, Fingerprints
from services.client.patience import Patience
from services.client.tally import Tally
from services.client.trainer import RoundTrainer, Trained
from services.rpc.adapters import Pulled, pull_when_there, push
from services.rpc.channel import patiently
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)

ANYWHERE = (0, 0)
"""Whatever round the edge is in is at or past it."""


class RoundLoop:
    """The rounds of one run that this client takes part in at one edge.

    Args:
        trainer: gives the trainer of this client's share as it is now; asked once a round.
        stop: set when the run has ended here, or when the client goes to another edge.
        evaluated: the versions that need no evaluation, since one was made, here or at another edge; added to here.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        trainer: Callable[[], RoundTrainer],
        *,
        link: CloudLink,
        edge: AdapterServiceStub,
        peer: str,
        stop: threading.Event,
        evaluated: set[int],
        tally: Tally,
        patience_s: float,
    ) -> None:
        self._run_id = run_id
        self._spec = spec
        self._trainer = trainer
        self._link = link
        self._fingerprints = Fingerprints(run_id, spec, link)
        self._edge = edge
        self._peer = peer
        self._stop = stop
        self._evaluated = evaluated
        self._tally = tally
        self._patience_s = patience_s
        self._place = ANYWHERE

    def run(self, place: tuple[int, int] = ANYWHERE) -> bool:
        """Work from `place`, version and edge round, to the last version; False if stopped before that.

        A round that fails is tried again from wherever the edge is then, which may be further back after a restart;
        its error is raised once the pauses since the last success add up to `patience_s` seconds. Raises
        RoundGivenUpError if the run ends.
        """
        self._place = place
        return Patience(self._run_id, self._patience_s, self._stop).until(self._round)

    def _round(self) -> bool:
        """Evaluate and train the next round; whether it was the last version, which is not trained from."""
        place, self._place = self._place, ANYWHERE
        pulled = self._pull(*place)
        trainer = self._trainer()
        self._evaluate(trainer, pulled)
        if pulled.version >= self._spec.training.rounds:
            return True
        self._place = self._train(trainer, pulled)
        return False

    def _pull(self, version: int, edge_round: int) -> Pulled:
        request = adapter_pb2.PullAdapterRequest(
            run_id=self._run_id, node_id=self._link.node_id, version=version, edge_round=edge_round
        )
        return pull_when_there(self._edge, request, self._peer, stop=self._stop, patience_s=self._patience_s)

    def _evaluate(self, trainer: RoundTrainer, pulled: Pulled) -> None:
        """Evaluate a global adapter that we have not evaluated yet, and tell the cloud."""
        if pulled.edge_round or pulled.version in self._evaluated:
            return
        cluster = pulled.cluster
        request = run_pb2.ReportEvaluationRequest(
            run_id=self._run_id,
            client_id=self._link.node_id,
            evaluation=_score(trainer, pulled),
            cluster_evaluation=None if cluster is None else self._of_cluster(trainer, pulled.version, cluster),
        )
        try:
            self._link.patiently(lambda: self._link.runs.ReportEvaluation(request, timeout=CALL_TIMEOUT_S))
        except StaleRoundError as error:  # nobody waits for it any more
            log.warning("run %s: %s", self._run_id, error)
        self._evaluated.add(pulled.version)

    def _of_cluster(self, trainer: RoundTrainer, version: int, cluster: int) -> run_pb2.Evaluation | None:
        """How good our cluster's adapter of a version is; None if the edge has gone on meanwhile."""
        request = adapter_pb2.PullAdapterRequest(
            run_id=self._run_id, node_id=self._link.node_id, version=version, cluster=cluster
        )
        try:
            pulled = pull_when_there(self._edge, request, self._peer, stop=self._stop, patience_s=self._patience_s)
            return _score(trainer, pulled, cluster)
        except (StaleRoundError, NotFoundError) as error:
            log.warning("run %s: version %d is evaluated one way alone: %s", self._run_id, version, error)
            return None

    def _asked(self, pulled: Pulled) -> Asked | None:
        """The probes, where clients are grouped anew with the version that this round makes; its last edge round."""
        training = self._spec.training
        last = pulled.edge_round + 1 == training.edge_rounds
        if not (last and self._spec.clustering.renews(pulled.version + 1, training.rounds)):
            return None
        try:
            return self._fingerprints.asked()
        except StaleRoundError as error:  # the run has one edge, say, and does not cluster
            log.info("run %s: %s", self._run_id, error)
            return None

    def _send(self, asked: Asked, trained: Trained, version: int) -> None:
        """Send a fingerprint; one that comes too late is of no use, and the round goes on."""
        if trained.answers is None:
            return
        try:
            self._fingerprints.send(asked, trained.answers, version)
        except StaleRoundError as error:
            log.warning("run %s: %s", self._run_id, error)

    def _train(self, trainer: RoundTrainer, pulled: Pulled) -> tuple[int, int]:
        """Train a round and push; the place of the next."""
        asked = self._asked(pulled)
        trained = trainer.train(pulled, asked.probes if asked else ())
        if asked is not None:  # before the push, which may close the round
            self._send(asked, trained, pulled.version + 1)
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
        self._tally.trained(self._run_id, trained.report)
        if pulled.edge_round + 1 < self._spec.training.edge_rounds:
            return pulled.version, pulled.edge_round + 1
        return pulled.version + 1, 0

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise RoundGivenUpError(f"stopped while waiting for {self._peer}")


def _score(trainer: RoundTrainer, pulled: Pulled, cluster: int | None = None) -> run_pb2.Evaluation:
    """How good an adapter is on the rows kept back."""
    score = trainer.evaluate(pulled, cluster)
    return run_pb2.Evaluation(
        version=pulled.version,
        rows=trainer.heldout_rows,
        loss=score.loss / max(score.count, 1),
        accuracy=score.correct / max(score.count, 1),
        cluster=cluster,
    )
