"""A small honest world to measure trust in: linear-softmax heads on a linear map over shared features.

Every client starts from the same map and takes some steps of gradient descent on rows of its own few labels, so that
embeddings, probabilities and updates belong together as they do in a real run. The five kinds of bad client differ
from an honest one only in what they do.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTH, LABELS, PROBES, REPEATS, DIMENSIONS = 48, 6, 64, 8, 32
KINDS = ((0, 1), (2, 3), (4, 5), (0, 1, 2, 3, 4, 5), (3,))


@dataclass(frozen=True, kw_only=True)
class Fleet:
    first: Array  # (N, Q, d)
    again: Array  # (N, R, d)
    repeated: NDArray[np.int64]  # (N, R), the probes asked twice
    probabilities: Array  # (N, Q, L)
    updates: Array  # (N, P)
    groups: NDArray[np.int64]  # (N,), which labels each client has
    bad: NDArray[np.bool_]  # (N,)

    @property
    def divergence(self) -> Array:
        return pairwise_divergence(self.first)


class World:
    """Rows, probes, the shared start and the projection, all from one seed."""

    def __init__(self, seed: int, noise: float = 1.0) -> None:
        self.rng = np.random.default_rng([seed, 1])
        self.noise = noise
        self.means = self.rng.normal(size=(LABELS, 24)) * 0.8
        self.features = self.rng.normal(size=(24, WIDTH)) / np.sqrt(24)
        self.head = self.rng.normal(size=(WIDTH, LABELS)) * 0.05
        self.probes = self.rows(self.rng.integers(LABELS, size=PROBES))
        self.projection = np.linalg.qr(self.rng.normal(size=(WIDTH, DIMENSIONS)))[0]

    def rows(self, labels: NDArray[np.int64]) -> Array:
        raw = self.means[labels] + self.noise * self.rng.normal(size=(len(labels), 24))
        return np.tanh(raw @ self.features)

    def train(self, pair: tuple[int, ...], how: str, steps: int) -> tuple[Array, Array]:
        """Map (WIDTH, WIDTH) and head after `steps` of 16 rows; `how` is "honest", "shuffled" or "swapped"."""
        truth = np.asarray(pair)[self.rng.integers(len(pair), size=120)]
        rows = self.rows(truth)
        told = truth
        if how == "shuffled":
            told = self.rng.permutation(truth)
        elif how == "swapped":
            told = np.asarray(pair)[(np.searchsorted(pair, truth) + 1) % len(pair)]
        weights, head = np.eye(WIDTH), self.head.copy()
        for _ in range(steps):
            batch = self.rng.integers(len(rows), size=16)
            hidden = rows[batch] @ weights
            error = (softmax(hidden @ head) - np.eye(LABELS)[told[batch]]) / 16
            weights, head = weights - 0.6 * rows[batch].T @ (error @ head.T), head - 0.6 * hidden.T @ error
        return weights, head


def fleet(
    seed: int,
    *,
    groups: tuple[int, ...],
    bad: int = 0,
    how: str = "honest",
    steps: int = 15,
    jitter: float = 0.01,
    noise: float = 1.0,
) -> Fleet:
    """Clients whose labels are the KINDS named by `groups`; the first `bad` of a random order train as `how` says."""
    world = World(seed, noise)
    which = np.zeros(len(groups), bool)
    which[world.rng.permutation(len(groups))[:bad]] = True
    ways = [how if one else "honest" for one in which]
    trained = [world.train(KINDS[g], way, steps) for g, way in zip(groups, ways, strict=True)]
    hidden = np.stack([world.probes @ weights for weights, _ in trained])
    first = hidden @ world.projection
    repeated = np.stack([world.rng.permutation(PROBES)[:REPEATS] for _ in groups])
    again = np.take_along_axis(first, repeated[:, :, None], axis=1)
    spread = first.std()
    return Fleet(
        first=first + jitter * spread * world.rng.normal(size=first.shape),
        again=again + jitter * spread * world.rng.normal(size=again.shape),
        repeated=repeated,
        probabilities=softmax(np.stack([h @ head for h, (_, head) in zip(hidden, trained, strict=True)])),
        updates=np.stack(
            [np.concatenate([(w - np.eye(WIDTH)).ravel(), (h - world.head).ravel()]) for w, h in trained]
        ),
        groups=np.asarray(groups),
        bad=which,
    )


def with_random_embeddings(honest: Fleet, seed: int, bad: int) -> Fleet:
    """Some clients send noise of the right size, and the same noise when a probe comes again."""
    rng = np.random.default_rng([seed, 2])
    who = rng.permutation(len(honest.first))[:bad]
    first, again = honest.first.copy(), honest.again.copy()
    for i in who:
        first[i] = first[i].mean() + first[i].std() * rng.normal(size=first[i].shape)
        again[i] = first[i][honest.repeated[i]]
    return replace(honest, first=first, again=again, bad=_mask(honest, who))


def with_copies(honest: Fleet, seed: int, bad: int, blur: float) -> Fleet:
    """Some clients send another's embeddings, each copied from a different one, with a little noise on top."""
    rng = np.random.default_rng([seed, 3])
    order = rng.permutation(len(honest.first))
    who, victims = order[:bad], order[bad : 2 * bad]
    first, again = honest.first.copy(), honest.again.copy()
    probabilities = honest.probabilities.copy()
    for i, victim in zip(who, victims, strict=True):
        first[i] = first[victim] + blur * first[victim].std() * rng.normal(size=first[i].shape)
        again[i] = first[i][honest.repeated[i]]
        probabilities[i] = probabilities[victim]
    return replace(honest, first=first, again=again, probabilities=probabilities, bad=_mask(honest, who))


def with_amplified_updates(honest: Fleet, seed: int, bad: int, factor: float) -> Fleet:
    who = np.random.default_rng([seed, 4]).permutation(len(honest.first))[:bad]
    updates = honest.updates.copy()
    updates[who] *= factor
    return replace(honest, updates=updates, bad=_mask(honest, who))


def with_unsteady_repeats(honest: Fleet, seed: int, bad: int, share: float) -> Fleet:
    """Some clients answer a repeated probe with noise of `share` of the spread of their answers."""
    rng = np.random.default_rng([seed, 5])
    who = rng.permutation(len(honest.first))[:bad]
    again = honest.again.copy()
    again[who] += share * honest.first.std() * rng.normal(size=again[who].shape)
    return replace(honest, again=again, bad=_mask(honest, who))


def pairwise_divergence(first: Array) -> Array:
    """Half the sum of both Kullback-Leibler divergences of the shrunk Gaussians, pair by pair from the definition."""
    means = first.mean(axis=1)
    centred = first - means[:, None]
    covariances = np.einsum("nqa,nqb->nab", centred, centred) / first.shape[1]
    size = first.shape[2]
    covariances += 0.01 * np.trace(covariances, axis1=1, axis2=2)[:, None, None] / size * np.eye(size)
    inverses = np.linalg.inv(covariances)
    traces = np.einsum("iab,jba->ij", inverses, covariances)
    apart = means[:, None] - means[None]
    far = np.einsum("ija,iab,ijb->ij", apart, inverses, apart)
    one_way = traces + far - size
    result = (one_way + one_way.T) / 4
    np.fill_diagonal(result, 0)
    return np.maximum(result, 0)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _mask(honest: Fleet, who: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(len(honest.first), bool)
    mask[who] = True
    return mask
