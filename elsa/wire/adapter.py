"""Adapters as safetensors bytes, without torch: what clients, edges and the cloud push, keep and pull.

Tensor names are PEFT's full parameter names and elements float32. The same tensors always make the same bytes,
so that a digest names an adapter.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from elsa.errors import MalformedError


def encode_adapter(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """`tensors` as one safetensors file, names in order. Raises MalformedError as `decode_adapter` does."""
    if not tensors:
        raise MalformedError("adapter: holds no tensor")
    for name, tensor in tensors.items():
        _check(name, tensor)
    data: bytes = save({name: np.array(tensors[name], dtype="<f4", order="C") for name in sorted(tensors)})
    return data


def decode_adapter(data: bytes) -> dict[str, NDArray[np.float32]]:
    """The tensors of a safetensors file, in order of their names.

    Raises:
        MalformedError: if it is no safetensors file or holds no tensor, or naming the tensor that is empty, not
            float32 or not finite.
    """
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise MalformedError(f"adapter: not a safetensors file ({error}); push what was encoded") from error
    if not entries:
        raise MalformedError("adapter: holds no tensor")
    tensors = {name: _tensor(name, entry) for name, entry in sorted(entries, key=lambda entry: entry[0])}
    for name, tensor in tensors.items():
        _check(name, tensor)
    return tensors


def sha256(data: bytes) -> str:
    """SHA-256 of `data`, lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _tensor(name: str, entry: Mapping[str, object]) -> NDArray[np.float32]:
    shape, dtype, data = entry["shape"], entry["dtype"], entry["data"]
    if dtype != "F32":
        raise MalformedError(f"tensor {name} is {dtype}; adapters are float32")
    return np.frombuffer(data, dtype="<f4").reshape(shape)  # type: ignore[call-overload,no-any-return]


def _check(name: str, tensor: NDArray[np.float32]) -> None:
    if tensor.dtype != np.float32:
        raise MalformedError(f"tensor {name} is {tensor.dtype}; adapters are float32")
    if not tensor.size:
        raise MalformedError(f"tensor {name} is empty, of shape {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise MalformedError(f"tensor {name} holds values that are not finite; lower the learning rate")
