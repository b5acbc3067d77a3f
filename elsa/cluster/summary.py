"""What the cloud is told of a client's update: a short linear summary, which keeps directions and lengths.

Clients' adapters go no further than their edge, which averages them; trust needs to know how each stands to the
others, also to those of other edges. A count sketch (Charikar, Chen and Farach-Colton, 2002) keeps inner products:
each coordinate is added, with a random sign, to one of `SIZE` sums, the same for all clients of a run.
"""

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SIZE = 256
"""Sums; an inner product of unit vectors is off by about 1/16 then (standard deviation 1 / sqrt(SIZE))."""

Tensors = Mapping[str, NDArray[np.floating]]


def summary(update: Tensors, start: Tensors, seed: int) -> NDArray[np.float32]:
    """(SIZE,) sums of what the tensors of `update` differ by from those of the same names in `start`.

    Linear in the difference, the same function for all who use the same `seed`; the order of names is irrelevant.
    """
    return summaries({"": update}, start, seed)[""]


def summaries(updates: Mapping[str, Tensors], start: Tensors, seed: int) -> dict[str, NDArray[np.float32]]:
    """The `summary` of each client's update, all of the same names; what is drawn for a tensor is drawn once."""
    sums = {client: np.zeros(SIZE) for client in updates}
    for name in sorted(next(iter(updates.values()), {})):
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
        places = draw.integers(SIZE, size=start[name].size)
        signs = draw.integers(2, size=start[name].size) * 2.0 - 1.0
        for client, update in updates.items():
            difference = (update[name].astype(np.float64) - start[name]).ravel()
            sums[client] += np.bincount(places, weights=signs * difference, minlength=SIZE)
    return {client: own.astype(np.float32) for client, own in sums.items()}
