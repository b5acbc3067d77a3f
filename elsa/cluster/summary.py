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
    sums = np.zeros(SIZE)
    for name in sorted(update):
        difference = (update[name].astype(np.float64) - start[name]).ravel()
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
        places = draw.integers(SIZE, size=difference.size)
        signs = draw.integers(2, size=difference.size) * 2.0 - 1.0
        sums += np.bincount(places, weights=signs * difference, minlength=SIZE)
    return sums.astype(np.float32)
