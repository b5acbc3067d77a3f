"""What a run's base consists of, with a digest of each part: what an edge sends first when a client asks for weights.

Every part of it is checked before anything is made of it: names, which become names of files, sizes and digests.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from elsa.errors import MalformedError
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import DType

MOST_FILES = 32
MOST_TENSORS = 4096
MOST_FILE_BYTES = 64 << 20

DTYPES = {
    "F32": DType.DTYPE_FLOAT32,
    "F16": DType.DTYPE_FLOAT16,
    "BF16": DType.DTYPE_BFLOAT16,
    "I8": DType.DTYPE_INT8,
    "U8": DType.DTYPE_UINT8,
    "I32": DType.DTYPE_INT32,
    "I64": DType.DTYPE_INT64,
}
"""Types by their names in safetensors files."""

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
"""Size of an element."""

_NAMES = {number: name for name, number in DTYPES.items()}
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,127}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of the base, by its name within the folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TensorEntry(Entry):
    """A tensor of the base, by its name in the task model."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files, and the tensors that were asked for, each in order of their names."""

    files: tuple[Entry, ...]
    tensors: tuple[TensorEntry, ...]
    trunk_sha256: str
    base_digest: str = dataclasses.field(default="", compare=False)
    """Names the whole base; empty where the edge does not say."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All of them, in the order in which they are sent."""
        return (*self.files, *self.tensors)

    @property
    def contents(self) -> dict[str, int]:
        """Size of each distinct contents by digest, in the order in which they are sent."""
        return {entry.sha256: entry.size_bytes for entry in self.entries}


def tensors_sha256(tensors: Iterable[TensorEntry]) -> str:
    """A digest over names, types, shapes and digests: equal where, and only where, the weights are.

    The text that is hashed is that of `BaseManifest.trunk_sha256` in split.proto.
    """
    total = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        parts = (tensor.name, str(DTYPES[tensor.dtype]), "x".join(map(str, tensor.shape)), tensor.sha256)
        total.update("".join(f"{part}\n" for part in parts).encode())
    return total.hexdigest()


def manifest_to_proto(manifest: Manifest) -> pb.BaseManifest:
    """A manifest as its message. Raises MalformedError as `manifest_from_proto`."""
    message = pb.BaseManifest(
        files=[pb.FileEntry(name=f.name, size_bytes=f.size_bytes, sha256=f.sha256) for f in manifest.files],
        tensors=[
            pb.TensorEntry(
                name=tensor.name,
                dtype=DTYPES[tensor.dtype],
                shape=tensor.shape,
                size_bytes=tensor.size_bytes,
                sha256=tensor.sha256,
            )
            for tensor in manifest.tensors
        ],
        trunk_sha256=manifest.trunk_sha256,
        base_digest=manifest.base_digest,
    )
    manifest_from_proto(message)
    return message


def manifest_from_proto(message: pb.BaseManifest) -> Manifest:
    """A manifest. Raises MalformedError naming the field that breaks its contract."""
    for field, count, most in (
        ("files", len(message.files), MOST_FILES),
        ("tensors", len(message.tensors), MOST_TENSORS),
    ):
        if count > most:
            raise MalformedError(f"manifest.{field}: {count} entries; at most {most} are taken")
    manifest = Manifest(
        files=tuple(_file(file, f"manifest.files[{index}]") for index, file in enumerate(message.files)),
        tensors=tuple(_tensor(entry, f"manifest.tensors[{index}]") for index, entry in enumerate(message.tensors)),
        trunk_sha256=checked_sha256(message.trunk_sha256, "manifest.trunk_sha256"),
        base_digest=checked_sha256(message.base_digest, "manifest.base_digest") if message.base_digest else "",
    )
    _check_order(manifest.files, "manifest.files")
    _check_order(manifest.tensors, "manifest.tensors")
    if any(manifest.contents[entry.sha256] != entry.size_bytes for entry in manifest.entries):
        raise MalformedError("manifest: two sizes for one digest")
    return manifest


def checked_sha256(value: str, field: str) -> str:
    """`value`, if it is a digest in lower-case hexadecimal. Raises MalformedError."""
    if not _SHA256.fullmatch(value):
        raise MalformedError(f"{field}: {value[:80]!r} is no SHA-256 in lower-case hexadecimal")
    return value


def _file(message: pb.FileEntry, field: str) -> Entry:
    name = _checked_name(message.name, _FILE_NAME, field)
    if message.size_bytes > MOST_FILE_BYTES:
        raise MalformedError(f"{field}.size_bytes: {message.size_bytes}; at most {MOST_FILE_BYTES} are taken")
    return Entry(name=name, size_bytes=message.size_bytes, sha256=checked_sha256(message.sha256, f"{field}.sha256"))


def _tensor(message: pb.TensorEntry, field: str) -> TensorEntry:
    name, dtype = _checked_name(message.name, _TENSOR_NAME, field), _NAMES.get(message.dtype)
    if dtype is None:
        raise MalformedError(f"{field}.dtype: {message.dtype} is no type of tensors")
    shape = tuple(message.shape)
    if not 1 <= len(shape) <= 4 or not all(shape):
        raise MalformedError(f"{field}.shape: {list(shape)}; it must be 1 to 4 lengths of at least 1")
    if message.size_bytes != prod(shape) * ITEM_BYTES[dtype]:
        raise MalformedError(f"{field}.size_bytes: {message.size_bytes} is not that of {dtype} {list(shape)}")
    return TensorEntry(
        name=name,
        dtype=dtype,
        shape=shape,
        size_bytes=message.size_bytes,
        sha256=checked_sha256(message.sha256, f"{field}.sha256"),
    )


def _checked_name(name: str, allowed: re.Pattern[str], field: str) -> str:
    if not allowed.fullmatch(name) or ".." in name:
        raise MalformedError(f"{field}.name: {name[:80]!r} is not allowed as a name")
    return name


def _check_order(entries: Sequence[Entry], field: str) -> None:
    names = [entry.name for entry in entries]
    if names != sorted(set(names)):
        raise MalformedError(f"{field}: names must come in order, each once")
