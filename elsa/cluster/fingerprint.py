"""How a client's model behaves on the public probes: what is asked, what comes back, and the Gaussian of the answers.

After warm-up a client embeds each probe through the split and projects the embeddings; the cloud checks what it
uploads (`check_fingerprint`), sorts it by probe (`Answers`), and keeps of every client the mean and covariance of its
answers (`gaussians`), whose divergences `elsa.cluster.divergence` gives. Paper: arXiv 2601.13824; the repeats, the
projection and the floor of the variance are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elsa.errors import MalformedError, SpecError

Array = NDArray[np.float64]
Shrinkage = float | Literal["ledoit-wolf"]

LEAST_PROBES = 8
"""Fewer probes than this say too little about a client."""

LARGEST = 1e6
"""No entry of a fingerprint may be larger; final hidden states are of the order of 1 to 1,000."""

FLOOR = 1e-8
"""The least variance in any direction, as a part of the mean variance of a client (or of the median client)."""

LEAST_VARIANCE = 1e-20
"""A mean variance below this counts as this: clients that all answer every probe alike stay comparable."""

BLOCK = 512
"""Clients worked on at a time, so that memory is little more than that of the result."""


def asking_order(probes: int, repeats: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """The probe asked at each place: (probes + repeats,), every probe once and `repeats` of them a second time.

    Order, choice and places are random; the two places of a probe are never next to each other. The client is not
    told which are the repeats. One that compares the texts can find them, so equal answers prove no honesty, while
    unequal ones show answers that do not come from a model alone.

    Args:
        seed: integers of the run and of the client, so that orders differ by client.

    Raises:
        SpecError: fewer than 8 probes, or repeats below 0 or above the number of probes.
    """
    if probes < LEAST_PROBES:
        raise SpecError(f"probes: {probes} are too few to compare clients by; give at least {LEAST_PROBES}")
    if not 0 <= repeats <= probes:
        raise SpecError(f"repeats: {repeats} is outside 0 to {probes}, the number of probes")
    random = np.random.default_rng(list(seed))
    order: list[int] = random.permutation(probes).tolist()
    for probe in random.choice(probes, size=repeats, replace=False).tolist():
        first = order.index(probe)
        apart = [place for place in range(len(order) + 1) if place not in (first, first + 1)]
        order.insert(apart[random.integers(len(apart))], probe)
    return np.array(order, dtype=np.int64)


def projection(width: int, dimensions: int, seed: Sequence[int]) -> Array:
    """Orthonormal columns (width, dimensions) in uniformly random directions, the same wherever the seed is the same.

    Raises:
        SpecError: dimensions below 1 or above the model's width.
    """
    if not 1 <= dimensions <= width:
        raise SpecError(f"dimensions: {dimensions} is outside 1 to {width}, the width of the model")
    directions, triangle = np.linalg.qr(np.random.default_rng(list(seed)).normal(size=(width, dimensions)))
    return np.asarray(directions * np.where(np.diag(triangle) < 0, -1.0, 1.0))


def check_fingerprint(embeddings: NDArray[Any], asked: int, dimensions: int) -> Array:
    """What a client uploaded, as (asked, dimensions) float64.

    Raises:
        MalformedError: another shape, a type that is not floating, an entry that is not finite or beyond 1e6.
    """
    if embeddings.shape != (asked, dimensions):
        raise MalformedError(f"fingerprint: shape {embeddings.shape}; it must be ({asked}, {dimensions})")
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise MalformedError(f"fingerprint: type {embeddings.dtype}; it must be floating")
    if not np.isfinite(embeddings).all():
        raise MalformedError("fingerprint: holds NaN or infinity; check the client's model")
    values = embeddings.astype(np.float64)
    if (largest := np.abs(values).max(initial=0.0)) > LARGEST:
        raise MalformedError(f"fingerprint: an entry of size {largest:.3g}; none may be beyond {LARGEST:.0e}")
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A client's answers by probe."""

    first: Array  # (probes, dimensions), row j the answer when probe j was first asked
    again: Array  # (repeats, dimensions), the answers when probes were asked again
    repeated: NDArray[np.int64]  # (repeats,), the probe of each row of `again`, ascending

    @classmethod
    def of(cls, embeddings: Array, order: NDArray[np.int64]) -> "Answers":
        """Sort checked embeddings (asked, dimensions) by the probes that were asked, (asked,) as `asking_order`."""
        first = np.unique(order, return_index=True)[1]
        again = np.setdiff1d(np.arange(len(order)), first)
        again = again[np.argsort(order[again], kind="stable")]
        return cls(first=embeddings[first], again=embeddings[again], repeated=order[again])


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """One Gaussian a client; covariances are symmetric and positive definite."""

    means: Array  # (clients, dimensions)
    covariances: Array  # (clients, dimensions, dimensions)

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, clients: NDArray[np.int64] | slice) -> "Gaussians":
        return Gaussians(means=self.means[clients], covariances=self.covariances[clients])


def gaussians(first: NDArray[np.floating], shrinkage: Shrinkage = 0.01) -> Gaussians:
    """The mean and covariance of each client's answers, (clients, probes, dimensions), over the probes.

    The covariance is Σ = (1/probes)·Σⱼ(Tⱼ − μ)(Tⱼ − μ)ᵀ, and s·tr(Σ)/d·I is added for a shrinkage s; with
    "ledoit-wolf" it is (1 − s)·Σ + s·tr(Σ)/d·I with the s of Ledoit and Wolf (2004), client by client. Then no
    direction keeps a variance below FLOOR times the client's mean variance, nor below FLOOR times that of the median
    client: this changes nothing unless s is tiny, or a client's answers are all but equal.

    Raises:
        SpecError: a shrinkage that is neither "ledoit-wolf" nor a finite number of at least 0.
    """
    if isinstance(shrinkage, str) and shrinkage != "ledoit-wolf":
        raise SpecError(f'shrinkage: {shrinkage!r} is unknown; give a number, or "ledoit-wolf"')
    if not isinstance(shrinkage, str) and not 0 <= shrinkage < np.inf:
        raise SpecError(f"shrinkage: {shrinkage} must be finite and at least 0")
    count, _, dimensions = first.shape
    means, covariances = np.empty((count, dimensions)), np.empty((count, dimensions, dimensions))
    sure = np.empty(count)  # no variance of the client is below this
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        means[block], covariances[block], sure[block] = _moments(first[block].astype(np.float64), shrinkage)
    _raise_to_floor(covariances, sure)
    return Gaussians(means=means, covariances=covariances)


def _moments(answers: Array, shrinkage: Shrinkage) -> tuple[Array, Array, Array]:
    """Means, covariances, and a variance that no direction is below, for some clients' answers."""
    means = answers.mean(axis=1)
    centred = answers - means[:, None]
    covariances = centred.transpose(0, 2, 1) @ centred / answers.shape[1]
    level = _mean_variances(covariances)
    if isinstance(shrinkage, str):
        part = _ledoit_wolf(centred, covariances, level)
        covariances *= (1 - part)[:, None, None]
    else:
        part = np.full(len(answers), shrinkage)
    covariances += (part * level)[:, None, None] * np.eye(answers.shape[2])
    return means, covariances, part * level


def _ledoit_wolf(centred: Array, covariances: Array, level: Array) -> Array:
    """The shrinkage of each client: expected error of Σ over its squared distance from level·I, at most 1."""
    probes = centred.shape[1]
    size = np.square(covariances).sum(axis=(1, 2))
    fourth = np.square(np.square(centred).sum(axis=2)).sum(axis=1)
    error = (fourth / probes - size) / probes
    distance = size - centred.shape[2] * np.square(level)
    part = np.divide(error, distance, out=np.ones_like(error), where=(distance > 0))
    return np.asarray(np.clip(part, 0.0, 1.0))


def _raise_to_floor(covariances: Array, sure: Array) -> None:
    """Raise, in place, eigenvalues below the floor, looking only at clients for which that is not ruled out."""
    level = np.maximum(_mean_variances(covariances), LEAST_VARIANCE)
    floor = FLOOR * np.maximum(level, np.median(level) if len(level) else 0.0)
    for client in np.flatnonzero(sure < floor):
        values, vectors = np.linalg.eigh(covariances[client])
        if values[0] < floor[client]:
            roots = vectors * np.sqrt(np.maximum(values, floor[client]))
            covariances[client] = roots @ roots.T


def _mean_variances(covariances: Array) -> Array:
    return np.asarray(np.trace(covariances, axis1=1, axis2=2) / covariances.shape[1])
