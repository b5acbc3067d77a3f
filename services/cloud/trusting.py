"""What a round's updates tell of the clients that a run has clustered: new trust, and who counts no more or again.

Called as a version is made, so that it holds for the next one: the updates of this one are aggregated by now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.trust import ROUNDS, Aside, Parts, course, smoothed, too_low, with_updates
from elsa.cluster.trust_probes import NEUTRAL
from elsa.clustering import TrustSpec
from services.cloud.events import TrustChanged
from services.cloud.records import Course, Run, Standing
from services.cloud.round_records import Update
from services.cloud.store import Transaction

Array = NDArray[np.float64]

WORTH_TELLING = 0.05
"""A change of trust since the last event of it that is an event."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A client's standing after a round."""

    standing: Standing
    reason: str
    """Why it is told, on one line; empty where it is as it was."""


def judge(transaction: Transaction, run: Run, spec: TrustSpec, updates: Sequence[Update], now: float) -> None:
    """Write down the new standings of a run's clients, with an event for each that changed."""
    standings = transaction.all(Standing, run_id=run.run_id)
    if not spec.enabled or not standings:
        return
    moved = {client: np.array(values) for update in updates for client, values in update.moved.items()}
    courses = _followed(transaction, run.run_id, moved)
    for own in judged(spec, standings, moved, courses):
        standing = own.standing
        transaction.put(standing)
        if own.reason:
            event = TrustChanged(
                client_id=standing.client_id,
                trust=standing.trust,
                set_aside=standing.set_aside,
                detail=own.reason,
                parts=standing.parts,
            )
            transaction.append(run.run_id, event, now)


def _followed(transaction: Transaction, run_id: str, moved: Mapping[str, Array]) -> dict[str, Array]:
    """The courses of the clients that moved, with this round; kept for the next."""
    before = {kept.client_id: np.frombuffer(kept.values, "<f4") for kept in transaction.all(Course, run_id=run_id)}
    courses = {client: course(before.get(client), update) for client, update in moved.items()}
    for client, values in courses.items():
        transaction.put(Course(run_id=run_id, client_id=client, values=values.astype("<f4").tobytes()))
    return courses


def judged(
    spec: TrustSpec, standings: Sequence[Standing], moved: Mapping[str, Array], courses: Mapping[str, Array]
) -> list[Judged]:
    """The standings of those whose updates are in `moved`: trust smoothed, rounds too low counted.

    Who is too low in `ROUNDS` rounds in a row in which it delivers is set aside, and taken back after one in which it
    is not. Too low among all clients: where bad ones alone deliver, they do not stand out from each other. One that
    sent no fingerprint has the neutral parts, so that it is judged by its updates alone.

    Args:
        moved: by client, a linear summary of its update, all of the same length.
        courses: of the same clients, by which their directions are judged.
    """
    known = {kept.client_id: kept for kept in standings if kept.client_id in moved}
    if not known:
        return []
    parts = {client: kept.parts or _UNKNOWN for client, kept in known.items()}
    updates = {client: moved[client] for client in known}
    told = with_updates(parts, updates, {client: kept.cluster for client, kept in known.items()}, courses)
    trust = smoothed(
        {client: kept.trust for client, kept in known.items()}, {client: own.score for client, own in told.items()}
    )
    low = too_low({kept.client_id: kept.trust for kept in standings} | trust, spec.min_trust)
    return [_judged(kept, told[client], trust[client], low) for client, kept in known.items()]


def _judged(before: Standing, parts: Parts, trust: float, low: Aside) -> Judged:
    why = low.reasons.get(before.client_id, "")
    rounds = before.low_rounds + 1 if why else 0
    aside = rounds >= ROUNDS
    reason = ""
    if aside and not before.set_aside:
        reason = f"set aside: {why}, {ROUNDS} rounds in a row"
    elif before.set_aside and not aside:
        reason = f"taken back: trust {trust:.2f}"
    elif abs(trust - before.told) >= WORTH_TELLING:
        reason = f"trust {trust:.2f} after its update, {before.told:.2f} before"
    standing = replace(
        before,
        trust=trust,
        parts=parts,
        low_rounds=rounds,
        set_aside=aside,
        told=trust if reason else before.told,
        detail=f"{before.detail.split('; ', 1)[0]}; {reason}" if reason else before.detail,
    )
    return Judged(standing=standing, reason=reason)


_UNKNOWN = Parts(consistency=NEUTRAL, repeatability=1.0, originality=1.0)
