"""One `FetchBlocks` call as a client makes it: the manifest, then what is missing, straight to the cache's disk."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from elsa.errors import CheckpointError, MalformedError, UnreachableError
from elsa.model.weights import is_beside
from elsa.v1 import split_pb2 as pb
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.chunks import ChunkOrder
from elsa.wire.manifest import Manifest, manifest_from_proto
from services.client.lease import Lease
from services.rpc.status import translated

log = logging.getLogger(__name__)

CALL_S = 120.0
"""Longest call. What is larger than fits in it takes several, each from where the one before stopped, so that an edge
that fell silent is given up in time."""


def manifest_of(stub: SplitServiceStub, request: pb.FetchBlocksRequest, peer: str) -> Manifest:
    """What the edge has of what `request` asks for. Raises MalformedError, and what the edge answers."""
    with _asking(stub, request, peer) as messages:
        return _manifest(messages)


def receive(
    stub: SplitServiceStub,
    request: pb.FetchBlocksRequest,
    peer: str,
    *,
    known: Manifest,
    missing: Mapping[str, int],
    lease: Lease,
) -> int:
    """Receive what is `missing`, each from where it stopped, until all is there or the stream ends; the bytes taken.

    Args:
        known: what the edge's manifest must be, or an edge with another base would complete it.

    Raises:
        CheckpointError: this edge has another base.
        MalformedError, ChecksumError: it does not send what it should; what came before stays.
        InputError: the cache's disk is full, or cannot be used.
        UnreachableError: nothing came.
    """
    request.wanted.extend(
        pb.WantedContent(sha256=sha256, offset=missing[sha256]) for sha256 in known.contents if sha256 in missing
    )
    wanted, taken = list(request.wanted), 0
    try:
        with _asking(stub, request, peer) as messages:
            _check_same(_manifest(messages), known, peer)
            for each in wanted:
                for count in _content(messages, each, known.contents[each.sha256], lease):
                    taken += count
    except UnreachableError as error:
        if not taken:
            raise
        log.info("%s; goes on from there", error)
    return taken


@contextmanager
def _asking(stub: SplitServiceStub, request: pb.FetchBlocksRequest, peer: str) -> Iterator[Iterator[Any]]:
    with translated(peer):
        messages: Any = stub.FetchBlocks(request, timeout=CALL_S)
        try:
            yield _heard(messages, peer)
        finally:
            messages.cancel()


def _heard(messages: Iterator[Any], peer: str) -> Iterator[Any]:
    """The messages; UnreachableError where one more is asked for than come."""
    yield from messages
    raise UnreachableError(f"{peer} ended the stream early")


def _manifest(messages: Iterator[Any]) -> Manifest:
    first = next(messages)
    if first.WhichOneof("message") != "manifest":
        raise MalformedError("FetchBlocksResponse.message: the first must be the manifest")
    manifest = manifest_from_proto(first.manifest)
    for index, file in enumerate(manifest.files):
        if not is_beside(file.name):
            raise MalformedError(f"manifest.files[{index}].name: {file.name!r} is no file of a tokenizer")
    return manifest


def check_same_base(manifest: Manifest, known: Manifest, peer: str) -> None:
    """Raise CheckpointError unless a manifest, perhaps of other blocks, is of the same base as one that is known."""
    tensors = {tensor.name: tensor for tensor in known.tensors}
    other = next((tensor.name for tensor in manifest.tensors if tensors.get(tensor.name, tensor) != tensor), None)
    if (manifest.files, manifest.trunk_sha256) != (known.files, known.trunk_sha256):
        other = "the trunk, or a file beside it"
    if other is not None:
        raise _another_base(peer, other)


def _check_same(manifest: Manifest, known: Manifest, peer: str) -> None:
    if manifest != known:
        entries = {entry.name: entry for entry in known.entries}
        other = next((e.name for e in manifest.entries if entries.get(e.name) != e), "the trunk, or a tensor less")
        raise _another_base(peer, other)


def _another_base(peer: str, other: str) -> CheckpointError:
    return CheckpointError(
        f"{peer} has another base model than the edge that was asked first ({other} differs); all edges of a run "
        "need the same"
    )


def _content(messages: Iterator[Any], wanted: pb.WantedContent, size: int, lease: Lease) -> Iterator[int]:
    """Take one contents; gives the bytes of each piece once it is in the file."""
    header = next(messages)
    if header.WhichOneof("message") != "content" or header.content != pb.ContentHeader(
        sha256=wanted.sha256, offset=wanted.offset
    ):
        raise MalformedError(f"FetchBlocksResponse.content: expected {wanted.sha256} from byte {wanted.offset}")
    order = ChunkOrder(size, "FetchBlocksResponse.chunk", wanted.offset)
    with lease.receive(wanted.sha256) as file:
        while not order.done:
            message = next(messages)
            if message.WhichOneof("message") != "chunk":
                raise MalformedError("FetchBlocksResponse.message: a header came before the last chunk")
            file.write(order.take(message.chunk))
            yield len(message.chunk.data)
