"""A client's trainer with one edge: made anew, on the same segment, when its share has another split."""

from collections.abc import Callable

from elsa.errors import InputError, ModelError, RoundGivenUpError
from elsa.model.segment import Segment
from elsa.spec import Split
from elsa.v1.fleet_pb2 import Assignment
from services.client.holding import Holding
from services.client.patience import PASSING
from services.client.share import Share, Shares
from services.client.stay import Stay
from services.client.trainer import RoundTrainer


class Trainers:
    """The trainers of one stay, one at a time. For the run's own thread.

    Args:
        told: the cloud's newest word.
        make: a trainer at a split, of a segment that has its blocks.
    """

    def __init__(
        self,
        shares: Shares,
        holding: Holding,
        stay: Stay,
        *,
        told: Callable[[], Assignment],
        make: Callable[[Segment, Split], RoundTrainer],
    ) -> None:
        self._shares = shares
        self._holding = holding
        self._stay = stay
        self._told = told
        self._make = make
        self._trainer: RoundTrainer | None = None

    def now(self) -> RoundTrainer:
        """The trainer of this client's share as it is now; what was given before is not to be used any more.

        Where what is wanted cannot be had for the time being, the share before stays, and it is tried again when next
        asked.

        Raises as `Shares.wanted`, `Holding.receive` and `Holding.take`; RoundGivenUpError once the stay is over.
        """
        share = self._shares.wanted(self._told())
        if self._trainer is None or self._trainer.split != share.split:
            share = self._received(share)
        if self._trainer is None or self._trainer.split != share.split:
            self._trainer = None  # with all that it keeps, before more is loaded
            self._trainer = self._make(self._holding.take(share.split), share.split)
        self._shares.carry(share)
        self._trainer.local_steps = share.local_steps
        return self._trainer

    def _received(self, share: Share) -> Share:
        """The share, once this machine has its weights and memory for them; else the one before, if there is one.

        The cache or memory may have no room, and the edge may not answer as it should.
        """
        stub, _ = self._stay.stubs()
        try:
            self._shares.check_grows(share)
            while not self._holding.receive(share.split, stub, self._stay.peer):
                if self._stay.over.is_set():
                    raise RoundGivenUpError(f"{self._stay.peer} was left before it had sent all")
            self._shares.check_grows(share)  # it may have taken long
        except ModelError:
            raise
        except (InputError, *PASSING) as error:
            if self._stay.over.is_set():
                raise
            return self._shares.kept(error, share.local_steps)
        return share
