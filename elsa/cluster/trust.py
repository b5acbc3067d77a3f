"""How far each client is trusted: the parts measured of its fingerprint and updates, one score, and who is set aside.

The cloud measures fingerprints once a run (`of_fingerprints`) and updates each round (`with_updates`), smooths the
scores over rounds, weighs updates by them and sets aside who stays far below the others. The score is the product of
the parts: each part tells another kind of bad client, and a mean would let four good parts outvote the one that does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.trust_probes import NEIGHBOURS, Neighbours, consistency, nearest, originality, repeatability
from elsa.cluster.trust_updates import update_agreement
from elsa.errors import SpecError

Array = NDArray[np.float64]

KEPT = 0.8  # share of the old score in the smoothed one
DEVIATIONS = 3 * 1.4826  # median absolute deviations below the median: three standard deviations of a normal one
LEAST_MAD = 0.1  # so that among clients that hardly differ nobody above half the others' trust is set aside
ROUNDS = 2
"""Who is `too_low` in so many rounds in a row is set aside; the caller counts them."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the score of one client is made of, each in [0, 1] and 1 where nothing speaks against it."""

    consistency: float
    repeatability: float
    originality: float
    direction: float = 1.0
    norm: float = 1.0

    @property
    def score(self) -> float:
        return self.consistency * self.repeatability * self.originality * self.direction * self.norm


@dataclass(frozen=True, kw_only=True)
class Aside:
    """Why each client that is too low in a round is; `note` says why nobody is where everybody would have been."""

    reasons: dict[str, str]
    note: str = ""


def of_fingerprints(
    ids: Sequence[str],
    *,
    first: Array,
    again: Array,
    repeated: NDArray[np.int64],
    divergence: Array,
    probabilities: Array | None = None,
    arrival: Array | None = None,
    neighbours: int = NEIGHBOURS,
) -> dict[str, Parts]:
    """The parts that a fingerprint tells, by client; the row of each client in every array is its place in `ids`.

    `first` (N, Q, d) are the first answers, `again` (N, R, d) the second ones to the probes `repeated` (N, R),
    `divergence` is (N, N), `probabilities` (N, Q, L) are the head's where all clients have the same labels, and
    `arrival` (N,) tells when each fingerprint came.
    """
    return of_neighbours(
        ids,
        first=first,
        again=again,
        repeated=repeated,
        near=nearest(divergence, neighbours),
        probabilities=probabilities,
        arrival=arrival,
    )


def of_neighbours(
    ids: Sequence[str],
    *,
    first: Array,
    again: Array,
    repeated: NDArray[np.int64],
    near: Neighbours,
    probabilities: Array | None = None,
    arrival: Array | None = None,
) -> dict[str, Parts]:
    """As `of_fingerprints`, where the neighbours of each client are known and not the divergences of all."""
    columns = (
        consistency(first, probabilities, near),
        repeatability(first, again, repeated),
        originality(first, near, arrival),
    )
    return {
        name: Parts(consistency=float(fits), repeatability=float(steady), originality=float(own))
        for name, fits, steady, own in zip(ids, *columns, strict=True)
    }


def with_updates(
    parts: Mapping[str, Parts],
    updates: Mapping[str, Array],
    clusters: Mapping[str, int],
    courses: Mapping[str, Array] | None = None,
) -> dict[str, Parts]:
    """`parts` with direction and norm of the updates of a round; who sent none keeps what is there.

    Each update is a flat array, the same coordinates for all: the whole difference or a random projection of it.

    Args:
        courses: where each client has been going, see `course`; the direction is theirs. Else it is of this round's
            updates alone, of which little can be told while all learn the same first things.
    """
    ids = sorted(updates)
    if not ids:
        return dict(parts)
    marks = np.array([clusters[name] for name in ids])
    stacked = np.stack([np.asarray(updates[name], np.float64) for name in ids])
    direction, norm = update_agreement(stacked, marks)
    if courses is not None:
        direction, _ = update_agreement(np.stack([np.asarray(courses[name], np.float64) for name in ids]), marks)
    told = {
        name: replace(parts[name], direction=float(along), norm=float(far))
        for name, along, far in zip(ids, direction, norm, strict=True)
    }
    return {**parts, **told}


def course(before: Array | None, update: Array) -> Array:
    """Where a client has been going: 0.8 of its course before, and its update; what is by chance cancels out."""
    new = np.asarray(update, np.float64)
    return new if before is None else KEPT * np.asarray(before, np.float64) + new


def smoothed(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    """0.8 old + 0.2 new by client; a first score is taken as it is, and without a new one the old stays."""
    return {
        name: KEPT * old[name] + (1 - KEPT) * new[name] if name in old and name in new else {**old, **new}[name]
        for name in sorted({*old, *new})
    }


def too_low(scores: Mapping[str, float], min_trust: float = 0.0) -> Aside:
    """Who is too low in one round, by its smoothed scores; who is so in ROUNDS rounds in a row is to be set aside.

    A client is whose score is below `min_trust`, or below the median - 3 · 1.4826 · MAD over the clients, the MAD at
    least 0.1. Nobody is where everybody would be, as a run without clients has no way on; then `note` says so.

    Raises:
        SpecError: if `min_trust` is not in [0, 1).
    """
    if not 0 <= min_trust < 1:
        raise SpecError(f"min_trust: {min_trust} is not in [0, 1); give a share of full trust, such as 0.3")
    if not scores:
        return Aside(reasons={})
    bound = _bound(scores)
    reasons = {
        name: _reason(scores[name], bound, min_trust)
        for name in sorted(scores)
        if scores[name] < max(bound, min_trust)
    }
    if len(reasons) < len(scores):
        return Aside(reasons=reasons)
    low = f"trust of all {len(scores)} clients is below min_trust {min_trust:g} (the best {max(scores.values()):.3f})"
    return Aside(reasons={}, note=f"{low}: none is set aside")


def _bound(scores: Mapping[str, float]) -> float:
    values = np.array(list(scores.values()))
    middle = float(np.median(values))
    return middle - DEVIATIONS * max(float(np.median(np.abs(values - middle))), LEAST_MAD)


def _reason(score: float, bound: float, min_trust: float) -> str:
    if score < bound:
        return f"trust {score:.3f} below {bound:.3f}, the median less 3·1.4826·MAD"
    return f"trust {score:.3f} below min_trust {min_trust:g}"
