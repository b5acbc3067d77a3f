"""`FetchBlocks` after its request: what a client may have of a run's base, cut into messages."""

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from elsa.errors import CapacityError, MalformedError, NotFoundError
from elsa.model.raw import Place
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import Chunk
from elsa.wire.chunks import CHUNK_BYTES
from elsa.wire.manifest import checked_sha256, manifest_to_proto
from services.edge.run import EdgeRun

MOST_WANTED = 8192


class Sendings:
    """Which clients an edge sends weights to: each once at a time, so many at once. For any thread.

    Raises CapacityError where too many are sent to.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._cancels: dict[tuple[str, str], Callable[[], object]] = {}

    @contextmanager
    def one(self, run_id: str, client: str, cancel: Callable[[], object]) -> Iterator[None]:
        """The stream that `cancel` ends; it ends the one before it of the same client in the same run."""
        key = (run_id, client)
        with self._lock:
            older = self._cancels.get(key)
            if older is None and len(self._cancels) >= self._most:
                raise CapacityError(f"this edge sends weights to {self._most} clients at once already; ask again")
            self._cancels[key] = cancel
        if older is not None:
            older()
        try:
            yield
        finally:
            with self._lock:
                if self._cancels.get(key) is cancel:
                    del self._cancels[key]


def sent(
    run: EdgeRun, request: pb.FetchBlocksRequest, is_there: Callable[[], bool]
) -> Iterator[pb.FetchBlocksResponse]:
    """The manifest, then what was asked for. Whether the client may have that is asked before each piece of it.

    Raises MalformedError, PermissionDeniedError, NotFoundError, DrainingError; what the run ended with.
    """
    client = request.client_id
    run.base.check_owned(client, request.blocks)
    wanted = wanted_from_proto(request)
    part = run.base.part(request.blocks, request.ends, is_there)
    yield pb.FetchBlocksResponse(manifest=manifest_to_proto(part.manifest))
    if strange := sorted(wanted.keys() - part.places.keys()):
        raise NotFoundError(f"contents {strange[0]} are not among those asked for; ask for the manifest again")
    files = {file.sha256 for file in part.manifest.files}
    for sha256 in part.manifest.contents:
        if sha256 in wanted:
            check = run.rounds.check_may_join if sha256 in files else run.rounds.check_member
            check(client)
            yield pb.FetchBlocksResponse(content=pb.ContentHeader(sha256=sha256, offset=wanted[sha256]))
            for chunk in chunks(part.places[sha256], wanted[sha256]):
                check(client)
                yield pb.FetchBlocksResponse(chunk=chunk)


def wanted_from_proto(request: pb.FetchBlocksRequest) -> dict[str, int]:
    """The offset from which each contents are wanted, by digest. Raises MalformedError naming the field."""
    if len(request.wanted) > MOST_WANTED:
        raise MalformedError(f"FetchBlocksRequest.wanted: {len(request.wanted)} entries; at most {MOST_WANTED}")
    wanted: dict[str, int] = {}
    for index, each in enumerate(request.wanted):
        sha256 = checked_sha256(each.sha256, f"FetchBlocksRequest.wanted[{index}].sha256")
        if sha256 in wanted:
            raise MalformedError(f"FetchBlocksRequest.wanted[{index}].sha256: is wanted twice")
        wanted[sha256] = each.offset
    return wanted


def chunks(place: Place, offset: int) -> Iterator[Chunk]:
    """The bytes of a place from `offset` on. Raises MalformedError if it is past them."""
    if offset and offset >= place.size_bytes:
        raise MalformedError(f"FetchBlocksRequest.wanted.offset: {offset} of {place.size_bytes} bytes")
    pieces = place.pieces(offset, CHUNK_BYTES) if place.size_bytes else iter([b""])
    for piece in pieces:
        end = offset + len(piece)
        yield Chunk(offset=offset, data=piece, crc32=zlib.crc32(piece), last=end == place.size_bytes)
        offset = end
