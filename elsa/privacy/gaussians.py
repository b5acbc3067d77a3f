"""Standard normal numbers that follow from a key of 256 bits and tell nothing of those to come: for turns and noise.

A general generator will not do for noise: torch's uses 32 bits of its seed, which an edge could try one by one.
"""

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

KEY_BYTES = 32


class Gaussians:
    """The stream of AES-256 in counter mode, made normal by Box and Muller, two of each 16 bytes, little-endian.

    Args:
        key: 32 bytes. Who has it has every number drawn.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()

    def draw(self, count: int) -> NDArray[np.float64]:
        """The next `count` numbers, (count,); of an odd number the last one's twin is lost."""
        stream = self._stream.update(bytes(16 * ((count + 1) // 2)))
        uniform = ((np.frombuffer(stream, "<u8") >> np.uint64(11)) + 1).astype(np.float64) * 2.0**-53  # (0, 1]
        radius, angle = np.sqrt(-2 * np.log(uniform[0::2])), 2 * math.pi * uniform[1::2]
        return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]).ravel()[:count]
