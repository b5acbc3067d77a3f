"""Takes one run through its life at this client: join with rows and links, then round after round with its edge.

The edge is the one that the cloud names at the time: when it names another, or the same at another address, the calls
to the one before end and the client goes on there, from wherever that edge is.
"""

import logging
import threading
from functools import partial

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
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.tensor import Layout
from services.client.base import RunBase
from services.client.basis import basis_at_cut
from services.client.keys import RunKeys
from services.client.links import measure
from services.client.patience import Patience
from services.client.rounds import ANYWHERE, RoundLoop
from services.client.settings import ClientSettings
from services.client.site import SiteData, load
from services.client.stay import Stay, Stays
from services.client.trainer import RoundTrainer
from services.client.warmup import WarmUp
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)

WARMUP, TRAINING = fleet_pb2.RUN_STATE_WARMUP, fleet_pb2.RUN_STATE_TRAINING


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
        self._stays = Stays(run_id)
        self._stop = threading.Event()
        self._keys = RunKeys(run_id, link.node_id, self._share)
        self._base = RunBase(run_id, settings)
        self._thread = threading.Thread(target=self._live, name=f"run-{run_id}", daemon=True)

    def start(self) -> None:
        """See `services.rpc.node.RunDriver`; the first `update` begins the work."""

    def update(self, assignment: fleet_pb2.Assignment) -> None:
        """See `services.rpc.node.RunDriver`."""
        self._keys.tell(assignment.keys)
        self._stays.tell(assignment)
        if self._offered is None:
            self._offered = assignment
            self._thread.start()

    def stop(self) -> None:
        """See `services.rpc.node.RunDriver`."""
        self._stop.set()
        self._base.stop()
        self._keys.close()
        self._stays.close()

    def join(self, timeout_s: float) -> None:
        """See `services.rpc.node.RunDriver`."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            joined = self._join()
            if joined is not None:
                self._complete()
                self._warm_up(*joined)
                self._work(*joined)
        except RoundGivenUpError as error:
            log.info("run %s: %s", self._run_id, error)
        except ElsaError as error:
            self._leave(error)
        except Exception as error:
            log.exception("run %s failed at this client", self._run_id)
            self._leave(PeerError(f"{type(error).__name__}; see the log of {self._link.node_id}"))
        finally:
            self._base.close()
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
            checkpoint = self._base.open(self._spec, lambda: self._stays.told.edges)
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

    def _complete(self) -> None:
        """Receive our weights from the edge of the time being, or the next one, unless they are on this machine."""
        done = not self._base.comes_from_edge
        while not done and not self._stop.is_set():
            with self._stays.take(WARMUP, TRAINING) as stay:
                split, _ = stay.stubs()
                self._link.report(fleet_pb2.Progress(run_id=self._run_id, activity="receiving weights"))
                call = partial(self._base.complete, split, stay.peer)
                done = Patience(self._run_id, self._settings.patience_s, stay.over).until(call)

    def _warm_up(self, checkpoint: Checkpoint, data: SiteData) -> None:
        """Send a fingerprint from the edge of the time being, or the next one, unless the run trains already."""
        done = False
        while not done and self._stays.wait(WARMUP, TRAINING).state == WARMUP:
            with self._stays.take(WARMUP, TRAINING) as stay:
                split, adapters = stay.stubs()
                done = WarmUp(
                    self._run_id,
                    self._spec,
                    self._trainer(checkpoint, data, stay, split, None),
                    link=self._link,
                    edge=adapters,
                    peer=stay.peer,
                    stop=stay.over,
                    over=lambda: self._stays.told.state == TRAINING,
                    patience_s=self._settings.patience_s,
                ).run()

    def _work(self, checkpoint: Checkpoint, data: SiteData) -> None:
        """Train to the last version, at one edge after the other."""
        place = self._stays.wait(TRAINING).version, 0
        shared, evaluated, done = self._shared_key(checkpoint), set[int](), False
        while not done and not self._stop.is_set():
            with self._stays.take(TRAINING) as stay:
                log.info("run %s: trains with %s", self._run_id, stay.peer)
                split, adapters = stay.stubs()
                done = RoundLoop(
                    self._run_id,
                    self._spec,
                    self._trainer(checkpoint, data, stay, split, shared),
                    link=self._link,
                    edge=adapters,
                    peer=stay.peer,
                    stop=stay.over,
                    evaluated=evaluated,
                    patience_s=self._settings.patience_s,
                ).run(place)
            place = ANYWHERE

    def _trainer(
        self,
        checkpoint: Checkpoint,
        data: SiteData,
        stay: Stay,
        stub: SplitServiceStub,
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
            peer=stay.peer,
            stop=stay.over,
            patience_s=self._settings.patience_s,
            report=self._link.report,
        )
