"""A client in a run that it has joined: gets its weights, warms up, then trains round after round with its edge.

The edge is the one that the cloud names at the time: when it names another, or the same at another address, the calls
to the one before end and the client goes on there, from wherever that edge is.
"""

import logging
import threading
from functools import partial

import torch

from elsa.model.segment import Segment
from elsa.privacy.keys import Key
from elsa.spec import Split
from elsa.v1 import fleet_pb2
from elsa.wire.tensor import Layout
from services.client.base import RunBase
from services.client.basis import basis_at_cut
from services.client.holding import Holding
from services.client.joining import Joined
from services.client.keys import RunKeys
from services.client.patience import Patience
from services.client.profile import pace_of
from services.client.rounds import ANYWHERE, RoundLoop
from services.client.settings import ClientSettings
from services.client.share import Shares
from services.client.stay import Stay, Stays
from services.client.tally import Tally
from services.client.trainer import RoundTrainer
from services.client.trainers import Trainers
from services.client.warmup import WarmUp
from services.rpc.node import CloudLink

log = logging.getLogger(__name__)

WARMUP, TRAINING = fleet_pb2.RUN_STATE_WARMUP, fleet_pb2.RUN_STATE_TRAINING

SharedKey = tuple[Key, torch.Tensor] | None
"""The key and the basis that the clients of a run share, if they do."""


class Member:
    """One client's part in one run, on the run's own thread.

    Args:
        base: opened.
        stop: set when the run has ended here.
    """

    def __init__(
        self,
        run_id: str,
        joined: Joined,
        *,
        settings: ClientSettings,
        link: CloudLink,
        stays: Stays,
        base: RunBase,
        keys: RunKeys,
        tally: Tally,
        stop: threading.Event,
    ) -> None:
        self._run_id = run_id
        self._joined = joined
        self._spec = joined.spec
        self._settings = settings
        self._link = link
        self._stays = stays
        self._base = base
        self._keys = keys
        self._tally = tally
        self._stop = stop
        self._shares = Shares(run_id, joined.spec, joined.limits)
        self._holding = Holding(joined.spec, joined.config, base)
        self._take = partial(stays.take, shared=joined.spec.plans_splits)

    def run(self) -> None:
        """Work to the last version. Raises RoundGivenUpError if the run ends before, and whatever ends it here."""
        self._complete()
        self._warm_up()
        self._work()

    def _complete(self) -> None:
        """Receive our weights from the edge of the time being, or the next one, unless they are on this machine."""
        done = not self._base.comes_from_edge
        while not done and not self._stop.is_set():
            with self._take(WARMUP, TRAINING) as stay:
                split, (stub, _) = self._shares.wanted(self._stays.told).split, stay.stubs()
                self._link.report(fleet_pb2.Progress(run_id=self._run_id, activity="receiving weights"))
                call = partial(self._holding.receive, split, stub, stay.peer)
                done = Patience(self._run_id, self._settings.patience_s, stay.over).until(call)

    def _warm_up(self) -> None:
        """Send a fingerprint from the edge of the time being, or the next one, unless the run trains already."""
        done = False
        while not done and self._stays.wait(WARMUP, TRAINING).state == WARMUP:
            with self._take(WARMUP, TRAINING) as stay:
                _, adapters = stay.stubs()
                done = WarmUp(
                    self._run_id,
                    self._spec,
                    self._trainers(stay, None).now,
                    link=self._link,
                    edge=adapters,
                    peer=stay.peer,
                    stop=stay.over,
                    over=lambda: self._stays.told.state == TRAINING,
                    patience_s=self._settings.patience_s,
                ).run()

    def _work(self) -> None:
        """Train to the last version, at one edge after the other."""
        place = self._stays.wait(TRAINING).version, 0
        shared, evaluated, done = self._shared_key(), set[int](), False
        while not done and not self._stop.is_set():
            with self._take(TRAINING) as stay:
                log.info("run %s: trains with %s", self._run_id, stay.peer)
                _, adapters = stay.stubs()
                done = RoundLoop(
                    self._run_id,
                    self._spec,
                    self._trainers(stay, shared).now,
                    link=self._link,
                    edge=adapters,
                    peer=stay.peer,
                    stop=stay.over,
                    evaluated=evaluated,
                    tally=self._tally,
                    patience_s=self._settings.patience_s,
                ).run(place)
            place = ANYWHERE

    def _shared_key(self) -> SharedKey:
        """The key and the basis of a run whose clients share them, else None; waits for them."""
        ssop = self._spec.privacy.ssop
        if ssop is None or not self._spec.privacy.shares_key:
            return None
        layout = Layout(dtype=torch.float32, shape=(ssop.rank, self._joined.limits.shape.width))
        return self._keys.obtain(layout, partial(self._basis, ssop.rank))

    def _basis(self, rank: int) -> torch.Tensor:
        split = self._joined.limits.least  # no splits are planned where activations are turned
        return basis_at_cut(self._spec, self._holding.take(split), self._base.checkpoint, split, rank)

    def _trainers(self, stay: Stay, shared: SharedKey) -> Trainers:
        """The trainers of a stay. Raises as `Shares.wanted`: patience does not help who can carry nothing."""
        self._shares.wanted(self._stays.told)
        make = partial(self._trainer, stay, shared)
        return Trainers(self._shares, self._holding, stay, told=lambda: self._stays.told, make=make)

    def _trainer(self, stay: Stay, shared: SharedKey, segment: Segment, split: Split) -> RoundTrainer:
        stub, _ = stay.stubs()
        return RoundTrainer(
            self._settings.name,
            self._run_id,
            self._spec,
            segment,
            split,
            self._base.checkpoint,
            self._joined.data,
            shared=shared,
            stub=stub,
            peer=stay.peer,
            stop=stay.over,
            patience_s=self._settings.patience_s,
            report=self._link.report,
            pace=pace_of(self._settings),
            base_digest=self._joined.base_digest,
        )
