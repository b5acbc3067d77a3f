"""The frozen base of one run as its clients may have it: what it consists of, and the bytes of each part.

All of it is read from the run's own checkpoint, piece by piece; nothing but what its manifest lists can be asked for.
Digests are made when they are first needed and kept as long as the run. All methods may be called from any thread.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from elsa.errors import CheckpointError, MalformedError, PermissionDeniedError, RoundGivenUpError
from elsa.model.carving import owned_tensors
from elsa.model.raw import Place, RawTensor, raw_tensors, whole_file
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.wire.chunks import CHUNK_BYTES
from elsa.wire.manifest import Entry, Manifest, TensorEntry, tensors_sha256

MOST_PARTS = 64
"""Manifests that are kept at once; of another the digests are known still."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A manifest, and where each of its contents lies, by digest."""

    manifest: Manifest
    places: dict[str, Place]


class RunBase:
    """The base of one run.

    Args:
        blocks_total: of the whole model.
        trunk: numbers of the blocks that this edge runs.
        digest: names the whole base; empty where that is not known.
    """

    def __init__(
        self, spec: RunSpec, checkpoint: Checkpoint, blocks_total: int, trunk: Sequence[int], digest: str = ""
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._total = blocks_total
        self._trunk = tuple(trunk)
        self._digest_of_all = digest
        self._lock = threading.Lock()
        self._digests: dict[Place, str] = {}
        self._parts: dict[tuple[tuple[int, ...], bool], Part] = {}

    def check_same(self, client: str, digest: str) -> None:
        """Raise CheckpointError if a client says that it has another base than this edge, where both say which."""
        ours, source = self._digest_of_all, self._spec.model.source
        if digest and ours and digest != ours:
            raise CheckpointError(
                f"{client[:80]} has another model under the name {source} ({digest[:12]}) than this edge "
                f"({ours[:12]}): give it the same files (--models {source}=FOLDER), or let it have its weights from "
                "the edge (--weights edge)"
            )

    def check_owned(self, client: str, blocks: Sequence[int]) -> None:
        """Raise MalformedError unless `blocks` rise, PermissionDeniedError unless all are the client's own.

        Where splits are planned any of the model's may become so.
        """
        if list(blocks) != sorted(set(blocks)):
            raise MalformedError("FetchBlocksRequest.blocks: must rise, each once")
        if self._spec.plans_splits:
            if beyond := [block for block in blocks if block >= self._total]:
                raise PermissionDeniedError(f"block {beyond[0]} is not there: the model has {self._total}")
            return
        trunk = self._spec.split_of(client, self._total).trunk_blocks
        for block in blocks:
            if block >= self._total or block in trunk:
                raise PermissionDeniedError(
                    f"block {block} is not {client}'s: in this run it owns those outside {trunk.start} to "
                    f"{trunk.stop - 1} of {self._total}"
                )

    def part(self, blocks: Sequence[int], ends: bool, is_there: Callable[[], bool]) -> Part:
        """The files and the tensors of these blocks and ends.

        Args:
            is_there: asked before each tensor is digested, which may take a while; where it is false the caller has
                left and RoundGivenUpError is raised. What was digested stays known.
        """
        key = (tuple(blocks), ends)
        with self._lock:
            if key not in self._parts:
                self._parts[key] = self._made(blocks, ends, is_there)
                while len(self._parts) > MOST_PARTS:
                    del self._parts[next(iter(self._parts))]  # the oldest; never the new one
            return self._parts[key]

    def _made(self, blocks: Sequence[int], ends: bool, is_there: Callable[[], bool]) -> Part:
        beside = self._checkpoint.beside()
        places = [whole_file(file) for file in beside]
        tensors = self._raw(blocks, ends)
        manifest = Manifest(
            files=tuple(
                Entry(name=file.name, size_bytes=place.size_bytes, sha256=self._digest(place, is_there))
                for file, place in zip(beside, places, strict=True)
            ),
            tensors=tuple(self._entry(tensor, is_there) for tensor in tensors),
            trunk_sha256=tensors_sha256(self._entry(raw, is_there) for raw in self._raw(self._trunk, ends=False)),
            base_digest=self._digest_of_all,
        )
        places += [tensor.place for tensor in tensors]
        return Part(
            manifest=manifest,
            places={entry.sha256: place for entry, place in zip(manifest.entries, places, strict=True)},
        )

    def _raw(self, blocks: Sequence[int], ends: bool) -> list[RawTensor]:
        if not blocks and not ends:
            return []
        task, labels = self._spec.model.task, len(self._spec.data.labels)
        names = owned_tensors(self._checkpoint, blocks, ends=ends, task=task, num_labels=labels)
        return raw_tensors(self._checkpoint, names)

    def _entry(self, tensor: RawTensor, is_there: Callable[[], bool]) -> TensorEntry:
        return TensorEntry(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            size_bytes=tensor.place.size_bytes,
            sha256=self._digest(tensor.place, is_there),
        )

    def _digest(self, place: Place, is_there: Callable[[], bool]) -> str:
        if place not in self._digests:
            if not is_there():
                raise RoundGivenUpError("the caller has left")
            self._digests[place] = _sha256(place.pieces(0, CHUNK_BYTES))
        return self._digests[place]


def _sha256(pieces: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()
