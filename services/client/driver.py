"""Takes one run through its life at this client: join with rows and links, then round after round with its edge."""

import logging
import threading

import grpc
import torch

from elsa.errors import (
    ElsaError,
    NotFoundError,
    PeerError,
    RoundGivenUpError,
    StaleRoundError,
    UnreachableError,
)
from elsa.model.weights import Checkpoint
from elsa.privacy.keys import Key
from elsa.spec import RunSpec
from elsa.train.fitting import check_fits
from elsa.v1 import fleet_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.tensor import Layout
from services.client.basis import basis_at_cut
from services.client.keys import RunKeys
from services.client.links import measure
from services.client.rounds import RoundLoop
from services.client.settings import ClientSettings
from services.client.site import SiteData, load
from services.client.trainer import RoundTrainer
from services.client.warmup import WarmUp
from services.rpc.channel import connect
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)


class RunDriver:
    """One run at this client, on a thread of its own. What it fails with ends the run here, and the cloud is told.

    Args:
        spec: the run's specification as YAML.
    """

    def __init__(
        self,
        run_id: str,
        spec: str,
        *,
        settings: ClientSettings,
        link: CloudLink,
    ) -> None:
        self._run_id = run_id
        self._text = spec
        self._spec: RunSpec  # read on the run's own thread, which refuses the run if it cannot be
        self._settings = settings
        self._link = link
        self._offered: fleet_pb2.Assignment | None = None
        self._warming: fleet_pb2.Assignment | None = None
        self._training: fleet_pb2.Assignment | None = None
        self._may_begin = threading.Event()
        self._may_train = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._keys = RunKeys(run_id, link.node_id, self._share)
        self._thread = threading.Thread(target=self._live, name=f"run-{run_id}", daemon=True)

    def start(self) -> None:
        """See `services.rpc.node.RunDriver`; the first `update` begins the work."""

    def update(self, assignment: fleet_pb2.Assignment) -> None:
        """See `services.rpc.node.RunDriver`."""
        self._keys.tell(assignment.keys)
        if self._offered is None:
            self._offered = assignment
            self._thread.start()
        if assignment.state == fleet_pb2.RUN_STATE_WARMUP and not self._may_begin.is_set():
            self._warming = assignment
            self._may_begin.set()
        if assignment.state == fleet_pb2.RUN_STATE_TRAINING and not self._may_train.is_set():
            self._training = assignment
            self._may_train.set()
            self._may_begin.set()

    def stop(self) -> None:
        """See `services.rpc.node.RunDriver`."""
        self._stop.set()
        self._may_train.set()
        self._may_begin.set()
        self._keys.close()
        self._disconnect()

    def join(self, timeout_s: float) -> None:
        """See `services.rpc.node.RunDriver`."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            joined = self._join()
            self._may_begin.wait()
            if joined is not None and self._warming is not None and not self._may_train.is_set():
                self._warm_up(*joined, self._warming.edges[0])
            self._may_train.wait()
            if joined is not None and self._training is not None and not self._stop.is_set():
                self._work(*joined, self._training.edges[0], self._training.version)
        except RoundGivenUpError as error:
            log.info("run %s: %s", self._run_id, error)
        except ElsaError as error:
            self._leave(error)
        except Exception as error:
            log.exception("run %s failed at this client", self._run_id)
            self._leave(PeerError(f"{type(error).__name__}; see the log of {self._link.node_id}"))
        finally:
            self._link.forget(self._run_id)

    def _leave(self, error: ElsaError) -> None:
        """Tell the cloud that we leave the run, and why; nothing if it has ended anyway."""
        if self._stop.is_set():
            return
        log.error("run %s failed at this client: %s", self._run_id, error)
        self._link.refuse(self._run_id, str(error))

    def _join(self) -> tuple[Checkpoint, SiteData] | None:
        """Load the rows, measure the links and join; or refuse, saying why.

        A run that is past its enrolment, because this client was restarted, needs the rows alone.
        """
        offered = self._offered or fleet_pb2.Assignment()
        rejoins = offered.state != fleet_pb2.RUN_STATE_ENROLLING
        try:
            self._spec = RunSpec.from_yaml(self._text, f"run {self._run_id}")
            checkpoint = Checkpoint.open(self._spec.model.source)
            config = checkpoint.config(self._spec.model.task, len(self._spec.data.labels))
            check_fits(self._spec, config.hidden_size)
            data = load(self._spec, checkpoint, self._settings.data, self._settings.heldout)
            log.info("run %s: %s", self._run_id, data.report)
            if rejoins:
                self._check_key_is_not_lost()
                return checkpoint, data
            links = measure(offered.edges)
            if not links:
                raise UnreachableError("no edge answers this client; check the edges' addresses")
        except ElsaError as error:
            if self._stop.is_set() or rejoins:
                raise
            log.error("run %s: cannot take part: %s", self._run_id, error)
            self._link.refuse(self._run_id, str(error))
            return None
        offer = fleet_pb2.ClientOffer(
            train_rows=len(data.train), heldout_rows=len(data.heldout), row_report=data.report, links=links
        )
        if self._spec.privacy.shares_key:
            offer.public_key = self._keys.public_key
        return (checkpoint, data) if self._offer(offer) else None

    def _offer(self, offer: fleet_pb2.ClientOffer) -> bool:
        """Join; False if the run began without us."""
        request = fleet_pb2.JoinRunRequest(run_id=self._run_id, node_id=self._link.node_id, client=offer)
        try:
            self._link.patiently(lambda: self._link.fleet.JoinRun(request, timeout=CALL_TIMEOUT_S))
        except StaleRoundError as error:
            log.warning("run %s: too late to join: %s", self._run_id, error)
            return False
        return True

    def _check_key_is_not_lost(self) -> None:
        """Raise NotFoundError if this run needs a key that was in the memory of the process before this one."""
        ssop = self._spec.privacy.ssop
        if ssop is not None and ssop.edge == "blind":
            raise NotFoundError(
                "the key of this run was in this client's memory alone, and the client was restarted; what its trunk "
                "learned under that key cannot be gone on with"
            )

    def _share(self, request: fleet_pb2.ShareKeysRequest) -> None:
        self._link.patiently(lambda: self._link.fleet.ShareKeys(request, timeout=CALL_TIMEOUT_S))

    def _shared_key(self, checkpoint: Checkpoint) -> tuple[Key, torch.Tensor] | None:
        """The key and the basis of a run whose clients share them, else None; waits for them."""
        ssop = self._spec.privacy.ssop
        if ssop is None or not self._spec.privacy.shares_key:
            return None
        config = checkpoint.config(self._spec.model.task, len(self._spec.data.labels))
        layout = Layout(dtype=torch.float32, shape=(ssop.rank, config.hidden_size))
        name = self._settings.name
        return self._keys.obtain(layout, lambda: basis_at_cut(self._spec, checkpoint, name, ssop.rank))

    def _connect(self, address: str) -> tuple[SplitServiceStub, AdapterServiceStub]:
        """The edge's services. Under the lock: gRPC crashes if a stub is made on a channel that closes."""
        with self._lock:
            if self._stop.is_set():
                raise RoundGivenUpError("stopped before the first round")
            self._channel = connect(address)
            return SplitServiceStub(self._channel), AdapterServiceStub(self._channel)

    def _disconnect(self) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.close()  # ends every call to the edge

    def _warm_up(self, checkpoint: Checkpoint, data: SiteData, edge: fleet_pb2.EdgePeer) -> None:
        peer = f"edge {edge.edge_id} at {edge.address}"
        split, adapters = self._connect(edge.address)
        try:
            WarmUp(
                self._run_id,
                self._spec,
                self._trainer(checkpoint, data, split, peer, None),
                link=self._link,
                edge=adapters,
                peer=peer,
                stop=self._stop,
                over=self._may_train.is_set,
                patience_s=self._settings.patience_s,
            ).run()
        finally:
            self._disconnect()

    def _work(self, checkpoint: Checkpoint, data: SiteData, edge: fleet_pb2.EdgePeer, version: int) -> None:
        peer = f"edge {edge.edge_id} at {edge.address}"
        log.info("run %s: trains with %s", self._run_id, peer)
        shared = self._shared_key(checkpoint)
        split, adapters = self._connect(edge.address)
        try:
            RoundLoop(
                self._run_id,
                self._spec,
                self._trainer(checkpoint, data, split, peer, shared),
                link=self._link,
                edge=adapters,
                peer=peer,
                stop=self._stop,
                patience_s=self._settings.patience_s,
            ).run(version)
        finally:
            self._disconnect()

    def _trainer(
        self,
        checkpoint: Checkpoint,
        data: SiteData,
        stub: SplitServiceStub,
        peer: str,
        shared: tuple[Key, torch.Tensor] | None,
    ) -> RoundTrainer:
        return RoundTrainer(
            self._settings.name,
            self._run_id,
            self._spec,
            checkpoint,
            data,
            shared=shared,
            stub=stub,
            peer=peer,
            stop=self._stop,
            patience_s=self._settings.patience_s,
            report=self._link.report,
        )
