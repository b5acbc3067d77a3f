"""Takes one run through its life at this client: join with rows and links, then round after round with its edge."""

import logging
import threading
from collections.abc import Callable

from elsa.errors import ElsaError, RoundGivenUpError, UnreachableError
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.v1 import fleet_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.client.links import measure
from services.client.rounds import RoundLoop
from services.client.settings import ClientSettings
from services.client.site import SiteData, load
from services.client.trainer import RoundTrainer
from services.rpc.channel import connect
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)


class RunDriver:
    """One run at this client, on a thread of its own.

    Args:
        fail: called with an error that nothing can be done about here.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        settings: ClientSettings,
        link: CloudLink,
        fail: Callable[[ElsaError], None],
    ) -> None:
        self._run_id = run_id
        self._spec = spec
        self._settings = settings
        self._link = link
        self._fail = fail
        self._offered: fleet_pb2.Assignment | None = None
        self._training: fleet_pb2.Assignment | None = None
        self._may_train = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"run-{run_id}", daemon=True)

    def start(self) -> None:
        """See `services.rpc.node.RunDriver`; the first `update` begins the work."""

    def update(self, assignment: fleet_pb2.Assignment) -> None:
        """See `services.rpc.node.RunDriver`."""
        if self._offered is None:
            self._offered = assignment
            self._thread.start()
        if assignment.state == fleet_pb2.RUN_STATE_TRAINING and not self._may_train.is_set():
            self._training = assignment
            self._may_train.set()

    def stop(self) -> None:
        """See `services.rpc.node.RunDriver`."""
        self._stop.set()
        self._may_train.set()

    def _live(self) -> None:
        try:
            joined = self._join()
            self._may_train.wait()
            if joined is not None and self._training is not None and not self._stop.is_set():
                self._work(*joined, self._training.edges[0], self._training.version)
        except RoundGivenUpError as error:
            log.info("run %s: %s", self._run_id, error)
        except ElsaError as error:
            if not self._stop.is_set():
                self._fail(error)
        finally:
            self._link.forget(self._run_id)

    def _join(self) -> tuple[Checkpoint, SiteData] | None:
        """Load the rows, measure the links and join; or refuse, saying why."""
        try:
            checkpoint = Checkpoint.open(self._spec.model.source)
            data = load(self._spec, checkpoint, self._settings.data, self._settings.heldout)
            links = measure(self._offered.edges if self._offered else ())
            if not links:
                raise UnreachableError("no edge answers this client; check the edges' addresses")
        except ElsaError as error:
            log.error("run %s: cannot take part: %s", self._run_id, error)
            self._answer(fleet_pb2.JoinRunRequest(refusal=str(error)))
            return None
        log.info("run %s: %s", self._run_id, data.report)
        offer = fleet_pb2.ClientOffer(
            train_rows=len(data.train), heldout_rows=len(data.heldout), row_report=data.report, links=links
        )
        self._answer(fleet_pb2.JoinRunRequest(client=offer))
        return checkpoint, data

    def _answer(self, request: fleet_pb2.JoinRunRequest) -> None:
        request.run_id, request.node_id = self._run_id, self._link.node_id
        self._link.patiently(lambda: self._link.fleet.JoinRun(request, timeout=CALL_TIMEOUT_S))

    def _work(self, checkpoint: Checkpoint, data: SiteData, edge: fleet_pb2.EdgePeer, version: int) -> None:
        peer = f"edge {edge.edge_id} at {edge.address}"
        log.info("run %s: trains with %s", self._run_id, peer)
        channel = connect(edge.address)
        try:
            trainer = RoundTrainer(
                self._settings.name,
                self._run_id,
                self._spec,
                checkpoint,
                data,
                stub=SplitServiceStub(channel),
                peer=peer,
                stop=self._stop,
                patience_s=self._settings.patience_s,
                report=self._link.report,
            )
            RoundLoop(
                self._run_id,
                self._spec,
                trainer,
                link=self._link,
                edge=AdapterServiceStub(channel),
                peer=peer,
                stop=self._stop,
                patience_s=self._settings.patience_s,
            ).run(version)
        finally:
            channel.close()
