"""Fleets with planted groups, and the divergences of their pairs."""

import numpy as np
from numpy.typing import NDArray

PROBES, WIDTH = 48, 16


def fleet(clients: int, groups: int, seed: int, apart: float = 1.0) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Return means (clients, width), covariances (clients, width, width) and the group of each client."""
    rng = np.random.default_rng([seed, clients, groups])
    shift = apart * rng.standard_normal((groups, PROBES, WIDTH))
    group = np.arange(clients) % groups
    answers = rng.standard_normal((PROBES, WIDTH)) + shift[group]
    answers = answers + 0.15 * rng.standard_normal((clients, PROBES, WIDTH))
    means = answers.mean(axis=1)
    centred = answers - means[:, None]
    covariances = np.matmul(centred.transpose(0, 2, 1), centred) / PROBES
    return means, covariances + 0.01 * np.eye(WIDTH), group


def divergences(means: NDArray, covariances: NDArray, columns: NDArray[np.int64] | None = None) -> NDArray:
    """Return half the sum of both Kullback-Leibler divergences, (clients, columns), in nats."""
    at = np.arange(len(means)) if columns is None else columns
    clients, width = means.shape
    inverses = np.linalg.inv(covariances)
    turned = np.einsum("nij,nj->ni", inverses, means)
    own = (turned * means).sum(axis=1)[:, None]
    moments = (covariances + means[:, :, None] * means[:, None, :]).reshape(clients, -1)
    flat, one = inverses.reshape(clients, -1), np.ones((clients, 1))
    left = np.hstack([moments, flat, -2 * means, -2 * turned, own, one])
    right = np.hstack([flat, moments, turned, means, one, own])[at]
    pairs = np.maximum(left @ right.T / 4 - width / 2, 0)
    pairs[at, np.arange(len(at))] = 0
    return pairs


def names(clients: int) -> list[str]:
    """Return ids whose order is that of their numbers."""
    return [f"client-{number:06d}" for number in range(clients)]
