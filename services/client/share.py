"""What a client carries in a run: as its specification says or, where splits are planned, as the cloud tells."""

import logging
from dataclasses import dataclass, replace

from elsa.errors import CapacityError, ElsaError, MalformedError, SplitError
from elsa.spec import RunSpec, Split
from elsa.v1.fleet_pb2 import Assignment, ClientShare
from services.client.limits import Limits

log = logging.getLogger(__name__)

MOST_STEPS = 100_000
"""Of an edge round; as `training.local_steps` of a specification."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A split, and the optimizer steps of an edge round."""

    split: Split
    local_steps: int


class Shares:
    """The shares of one client in one run: what it is to carry, and what it does. For the run's own thread."""

    def __init__(self, run_id: str, spec: RunSpec, limits: Limits) -> None:
        self._run_id = run_id
        self._limits = limits
        self._planned = spec.plans_splits
        self._told = ClientShare()
        self._carried: Share | None = None
        self._wanted: Share | None = None
        if not self._planned:
            self._wanted = Share(split=limits.least, local_steps=spec.training.local_steps)

    def wanted(self, told: Assignment) -> Share:
        """What the cloud's newest word has this client carry; what it carries already, where it cannot carry that.

        Raises what is wrong with the share, with the figures, where it carries nothing yet.
        """
        if self._planned and told.HasField("share") and told.share != self._told:
            self._wanted = self._judged(told.share)
            self._told = told.share  # not where that raised, so that it raises again
        if self._wanted is None:
            raise MalformedError("assignment.share: is missing or all 0 in a run whose splits are planned")
        return self._wanted

    def carry(self, share: Share) -> None:
        """All that `share` needs is held."""
        if self._planned and share != self._carried:
            log.info("run %s: carries %s, %d steps a round", self._run_id, share.split, share.local_steps)
        self._carried = share

    def kept(self, error: ElsaError, local_steps: int | None = None) -> Share:
        """What this client goes on with where what is wanted cannot be had, for `error`, which it raises without.

        What is wanted stays as it is, and is tried again when it is asked for next.

        Args:
            local_steps: the number that it is told, which it takes whatever it carries.
        """
        if self._carried is None:
            raise error
        log.warning(
            "run %s: keeps %s, as what it was told cannot be had: %s", self._run_id, self._carried.split, error
        )
        return replace(self._carried, local_steps=local_steps or self._carried.local_steps)

    def check_grows(self, share: Share) -> None:
        """Reserve what a planned share takes; CapacityError unless that is there, beside other runs and now."""
        if self._planned:
            carried = None if self._carried is None else self._carried.split
            self._limits.check_grows(carried, share.split)
            self._limits.reserve(share.split)

    def _judged(self, message: ClientShare) -> Share:
        """The share; what is carried, with its steps, where this client can never carry it."""
        steps = None
        try:
            share = share_from_proto(message, self._limits.shape.blocks)
            steps = share.local_steps
            self._limits.check(share.split)
        except (MalformedError, CapacityError) as error:
            return self.kept(error, steps)
        return share


def share_from_proto(message: ClientShare, blocks: int) -> Share:
    """A share of a model of so many blocks. Raises MalformedError naming the field."""
    try:
        split = Split(bottom=message.bottom, trunk=blocks - message.bottom - message.top, top=message.top)
    except SplitError as error:
        raise MalformedError(f"assignment.share: in a model of {blocks} blocks, {error}") from error
    if not 1 <= message.local_steps <= MOST_STEPS:
        raise MalformedError(f"assignment.share.local_steps: {message.local_steps}; it must be 1 to {MOST_STEPS}")
    return Share(split=split, local_steps=message.local_steps)
