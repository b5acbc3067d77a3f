"""First values of what training starts from nothing: drawn from (seed, name), so all machines draw the same."""

import hashlib
import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def initial_head(name: str, shape: tuple[int, ...], seed: int, spread: float) -> Array:
    """A head tensor: zero for a bias, else normal with standard deviation `spread`, float32."""
    if name.endswith(".bias"):
        return np.zeros(shape, dtype=np.float32)
    return _generator(name, seed).standard_normal(shape, dtype=np.float32) * np.float32(spread)


def initial_lora(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """A LoRA factor: B zero, A (rank, in) uniform within ±1/√in, float32 (arXiv 2106.09685, section 4.1)."""
    if ".lora_B." in name:
        return np.zeros(shape, dtype=np.float32)
    unit = _generator(name, seed).random(shape, dtype=np.float32)  # [0, 1)
    return (unit * np.float32(2) - np.float32(1)) * np.float32(1 / math.sqrt(shape[1]))


def _generator(name: str, seed: int) -> np.random.Generator:
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words.tolist()])))
