"""A checkpoint whose tensors lie one by one in a cache, each under the digest of its bytes; nothing else is there.

For a device that holds its own part of a model alone. Each tensor is compared with its digest as it is read, and at
most one is held besides those that are handed out.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from elsa.errors import CheckpointError, ChecksumError
from elsa.model.weights import Checkpoint
from elsa.wire.manifest import DTYPES, TensorEntry
from elsa.wire.tensor import DTYPES as WIRE_DTYPES

_PIECE_BYTES = 1 << 20
_TORCH = {number: dtype for dtype, number in WIRE_DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class CachedCheckpoint(Checkpoint):
    """See `Checkpoint`; `files` are those of the cache, by the tensors' names in the task model."""

    entries: Mapping[str, TensorEntry]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """See `Checkpoint.shape`."""
        return self.entries[name].shape if name in self.entries else None

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """See `Checkpoint.read`. Raises also ChecksumError if a tensor's bytes have changed since they came.

        They are removed from the cache then, so that they can come again.
        """
        tensors = {}
        for name in sorted(names):
            if name not in self.entries:
                raise CheckpointError(
                    f"the edge's model {self.source} has no tensor {name}; use one of the whole model"
                )
            tensors[name] = _read(self.files[name], self.entries[name], dtype)
        return tensors


def _read(file: Path, entry: TensorEntry, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor of its own memory from a file of its raw bytes, in `dtype` or as stored."""
    data = torch.empty(entry.size_bytes, dtype=torch.uint8)
    view, digest, done = memoryview(data.numpy()), hashlib.sha256(), 0  # type: ignore[arg-type]
    try:
        with file.open("rb") as opened:
            while count := opened.readinto(view[done : done + _PIECE_BYTES]):
                digest.update(view[done : done + count])
                done += count
    except OSError as error:
        raise CheckpointError(
            f"cannot read {entry.name} from the cache ({file}: {error.strerror}); start again, to fetch it again"
        ) from error
    if done != entry.size_bytes or digest.hexdigest() != entry.sha256:
        file.unlink(missing_ok=True)
        raise ChecksumError(
            f"{entry.name} in the cache ({file}) had changed and was removed; it is to be fetched again"
        )
    tensor = data.view(_TORCH[DTYPES[entry.dtype]]).reshape(entry.shape)
    return tensor.to(dtype) if dtype else tensor
