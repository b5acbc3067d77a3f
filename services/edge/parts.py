"""What the clients of one cluster make in an edge round: their updates, how each counts, and the mean of them."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from elsa.aggregate.fednova import least_steps
from elsa.cluster.summary import summaries
from elsa.errors import MalformedError
from services.edge.own_trunks import Adapter, OwnTrunks

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a client says of its training in one edge round, as an opaque value for those who watch."""

    client: str
    rows: int
    steps: int = 0
    """Optimizer steps, as this edge applied them in the client's session."""
    message: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Update:
    """A client's whole-model adapter."""

    report: Report
    tensors: Adapter = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a client counts, as the cloud says."""

    cluster: int = 0
    trust: float = 1.0
    """By which the rows behind its update are multiplied, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What those clients of a cluster that delivered made in an edge round."""

    adapter: Adapter = field(repr=False)
    """The mean; what there was before where none of them is trusted."""
    rows: int
    """Behind it, each client's times its trust; at least 1, so that it is pushed."""
    clients: int
    """Whose updates it is made of; those that are set aside are not counted."""
    steps: float = 0.0
    """Optimizer steps that it counts for, as `elsa.aggregate.fednova` says; 0 where all clients take as many, and
    where none of them is trusted."""
    reports: tuple[Report, ...]
    moved: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    """By client, a summary of how far its adapter went from the round's, where the cloud weighs clients by trust."""
    own: Mapping[str, Adapter] = field(default_factory=dict, repr=False)
    """By client whose update counts, the tensors that stay with it, where any do."""


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A closed edge round."""

    parts: Mapping[int, Part]
    """By cluster; of none where nobody delivered."""
    missing: tuple[str, ...]
    cut_short: bool = False
    """By its deadline, before the quorum was there."""


IN_FULL = Standing()
"""How a client counts of which the cloud says nothing."""


LARGEST = 1e6
"""Of an adapter's values, so that sums over clients and tensors stay finite."""


def part_of(
    updates: Mapping[str, Update],
    before: Adapter,
    standings: Mapping[str, Standing],
    own: OwnTrunks,
    *,
    seed: int | None,
    most_steps: int | None = None,
) -> Part:
    """The updates of a cluster, at least one by client, aggregated by rows, trust and, where they differ, steps.

    Those of clients that are set aside, whose trust is 0, are reported and do not count.

    Args:
        before: what its clients started from.
        own: says what is never averaged.
        seed: the run's, of the summaries; None for none.
        most_steps: that a client takes where they take different numbers of them; None where all take as many.
    """
    weights = {client: u.report.rows * standings.get(client, IN_FULL).trust for client, u in updates.items()}
    taken = {client: float(u.report.steps) if most_steps else 0.0 for client, u in updates.items()}
    counted = {
        client: (weights[client], taken[client], u.tensors) for client, u in updates.items() if weights[client] > 0
    }
    adapter, steps = before, 0.0
    if counted:
        adapter, steps = own.aggregate(counted, before)
    else:
        log.warning("none of %s is trusted: their adapter stays as it is", ", ".join(sorted(updates)))
    return Part(
        adapter=adapter,
        rows=max(round(sum(weights.values())), 1),
        clients=len(counted),
        steps=steps,
        reports=tuple(updates[client].report for client in sorted(updates)),
        moved={} if seed is None else _moved(updates, before, standings, seed, most_steps),
        own={client: theirs for client, (*_, tensors) in counted.items() if (theirs := own.part_of(tensors))},
    )


def _moved(
    updates: Mapping[str, Update],
    before: Adapter,
    standings: Mapping[str, Standing],
    seed: int,
    most_steps: int | None,
) -> dict[str, list[float]]:
    """How far those clients went that the cloud weighs: where they take different numbers of steps, for the most.

    So that who takes fewer steps does not seem to fall behind its cluster.
    """
    told = {client: update.tensors for client, update in updates.items() if client in standings}
    gone = summaries(told, before, seed)
    return {
        client: (way * (most_steps / updates[client].report.steps if most_steps else 1)).tolist()
        for client, way in gone.items()
    }


def check_steps(report: Report, most: int) -> None:
    """Raise MalformedError unless a client took so many of `most` steps that they can be evened out."""
    least = math.ceil(least_steps(most))
    if not least <= report.steps <= most:
        raise MalformedError(
            f"steps of {report.client}: {report.steps}; a client takes from {least} to {most} of them here"
        )


def check_fit(tensors: Adapter, whole: Adapter) -> None:
    """Raise MalformedError unless an update has the names and shapes of `whole`, and values that may be summed."""
    for name, values in whole.items():
        if name not in tensors:
            raise MalformedError(f"adapter: tensor {name} is missing")
        if tensors[name].shape != values.shape:
            raise MalformedError(f"adapter: tensor {name} is {tensors[name].shape}, expected {values.shape}")
        if not np.isfinite(tensors[name]).all():
            raise MalformedError(f"adapter: tensor {name} holds values that are not finite; lower the learning rate")
        if (largest := float(np.abs(tensors[name]).max(initial=0))) > LARGEST:
            raise MalformedError(
                f"adapter: tensor {name} holds {largest:.3g}, at most {LARGEST:g} is taken; lower the learning rate"
            )
    extra = sorted(set(tensors) - set(whole))
    if extra:
        raise MalformedError(f"adapter: tensor {extra[0]} is not part of this model's adapter")
