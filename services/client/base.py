"""Where a run's base comes from at this client: the machine itself, or an edge by way of the machine's cache."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from elsa.errors import CheckpointError, RoundGivenUpError, UnreachableError
from elsa.model.cached import CachedCheckpoint
from elsa.model.digest import base_digest
from elsa.model.weights import Checkpoint, architecture_in
from elsa.spec import RunSpec
from elsa.v1.fleet_pb2 import EdgePeer
from elsa.v1.split_pb2 import FetchBlocksRequest
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.manifest import Manifest
from services.client.cache import MIB, Cache
from services.client.fetching import check_same_base, manifest_of, receive
from services.client.lease import Lease
from services.client.patience import PASSING, Patience
from services.client.settings import ClientSettings
from services.client.stay import Stay
from services.rpc.dial import LOOPBACK, Dialer

log = logging.getLogger(__name__)

OTHERS_PAUSE_S = 0.2
"""How long to wait before looking again whether another client of this machine has received all."""


class RunBase:
    """The base of one run at this client. `stop` may be called from any thread, the others are the run's own.

    Opened, it has its configuration and tokenizer; once `complete`, the weights of the ends and of the blocks that
    were asked for last.
    """

    def __init__(self, run_id: str, settings: ClientSettings, dialer: Dialer = LOOPBACK) -> None:
        self._run_id = run_id
        self._settings = settings
        self._dialer = dialer
        self._stop = threading.Event()
        self._asked: Stay | None = None
        self._lease: Lease | None = None
        self._manifest: Manifest | None = None
        self._blocks: tuple[int, ...] = ()
        self._checkpoint: Checkpoint | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The run's model as far as it is here; another one once other blocks have been asked for."""
        if self._checkpoint is None:
            raise RuntimeError("open the base first")
        return self._checkpoint

    def open(self, spec: RunSpec, edges: Callable[[], Sequence[EdgePeer]]) -> Checkpoint:
        """The run's model: from this machine, or without weights yet from one of `edges`, as the settings say.

        Raises:
            CheckpointError, ArchitectureError: it is not on this machine, or the edge's cannot be used.
            InputError: the cache has no room, or cannot be used.
            MalformedError, UnreachableError: the edges do not answer as they should.
            RoundGivenUpError: stopped meanwhile.
        """
        self._checkpoint = self._local(spec.model.source) or self._from_edge(spec, edges)
        return self._checkpoint

    def digest(self, spec: RunSpec) -> str:
        """Names the whole base, of which this machine may have a part; empty where that cannot be told.

        What comes from an edge is called as that edge calls it. Raises as `base_digest`.
        """
        if self._manifest is not None:
            return self._manifest.base_digest
        return base_digest(self.checkpoint, spec.model.base_dtype, spec.model.task, len(spec.data.labels))

    @property
    def comes_from_edge(self) -> bool:
        """Whether an edge has described it, so that it is to be completed."""
        return self._manifest is not None

    def complete(self, blocks: Sequence[int], stub: SplitServiceStub, peer: str) -> bool:
        """Receive what is still missing of the weights of the ends and of `blocks`; False if that needs another call.

        Raises as `services.client.fetching.receive`, and InputError where the cache has no room for these blocks;
        then those that were asked for before stay.
        """
        if self._lease is None or self._manifest is None:
            return True
        if tuple(blocks) != self._blocks:
            self._ask_for(blocks, self._lease, self._manifest, stub, peer)
        return self._receive(self._lease, stub, peer, self._manifest, self._request(self._blocks, ends=True))

    def stop(self) -> None:
        """End what waits for an edge."""
        self._stop.set()
        if self._asked is not None:
            self._asked.end()

    def close(self) -> None:
        """Let go of the cache."""
        if self._lease is not None:
            self._lease.close()

    def _local(self, source: str) -> Checkpoint | None:
        """The model of this machine; None if it is to come from an edge."""
        wanted, models = self._settings.weights, self._settings.models
        if wanted == "edge":
            return None
        try:
            return Checkpoint.open(source, download=wanted == "local", models=models)
        except CheckpointError as error:
            if wanted is None and source in models:
                raise
            if wanted == "local":
                raise CheckpointError(f"{error}; or set weights to edge") from error
            log.info("run %s: %s; its weights come from the edge", self._run_id, error)
        return None

    def _ask_for(
        self, blocks: Sequence[int], lease: Lease, known: Manifest, stub: SplitServiceStub, peer: str
    ) -> None:
        """Describe other blocks of the same base, and hold their place in the cache."""
        manifest = manifest_of(stub, self._request(blocks, ends=True), peer)
        check_same_base(manifest, known, peer)
        lease.hold(manifest.contents)
        self._blocks, self._manifest = tuple(blocks), manifest
        self._checkpoint = _described_by(manifest, self.checkpoint, lease.cache)

    def _from_edge(self, spec: RunSpec, edges: Callable[[], Sequence[EdgePeer]]) -> Checkpoint:
        self._lease = lease = Lease(Cache(self._settings.cache_folder, self._settings.max_cache_mib * MIB))
        found: list[Checkpoint] = []

        def ask() -> bool:
            found.append(self._ask(edges(), lambda stub, peer: self._described(spec, lease, stub, peer)))
            return True

        if not Patience(self._run_id, self._settings.patience_s, self._stop).until(ask):
            raise RoundGivenUpError("stopped before an edge had described the model")
        return found[0]

    def _ask(self, edges: Iterable[EdgePeer], question: Callable[[SplitServiceStub, str], Checkpoint]) -> Checkpoint:
        """The first answer of one of the edges. Raises what the last one refused, if all do for the time being."""
        refused: Exception = UnreachableError("the cloud names no edge yet")
        for edge in edges:
            stay = self._asked = Stay(edge, self._dialer)
            if self._stop.is_set():
                stay.end()
            try:
                return question(stay.stubs()[0], stay.peer)
            except PASSING as error:
                refused = error
            finally:
                stay.end()
        raise refused

    def _described(self, spec: RunSpec, lease: Lease, stub: SplitServiceStub, peer: str) -> Checkpoint:
        """The model without its weights, for which there is room."""
        beside = manifest_of(stub, self._request((), ends=False), peer)
        lease.hold(beside.contents)
        while not self._receive(lease, stub, peer, beside, self._request((), ends=False)):
            log.debug("run %s: more of %s is to come", self._run_id, peer)
        folder = lease.folder_of({file.name: file.sha256 for file in beside.files})
        bare = CachedCheckpoint(
            source=spec.model.source, folder=folder, architecture=architecture_in(folder), files={}, entries={}
        )
        total = bare.config(spec.model.task, len(spec.data.labels)).num_hidden_layers
        split = spec.split_of(self._settings.name, total)
        self._blocks = tuple(block for block in range(total) if block not in split.trunk_blocks)
        manifest = self._manifest = manifest_of(stub, self._request(self._blocks, ends=True), peer)
        if (manifest.files, manifest.trunk_sha256) != (beside.files, beside.trunk_sha256):
            raise CheckpointError(f"{peer} changed its model {spec.model.source} meanwhile; join again")
        lease.hold(manifest.contents)
        return _described_by(manifest, bare, lease.cache)

    def _receive(
        self, lease: Lease, stub: SplitServiceStub, peer: str, manifest: Manifest, request: FetchBlocksRequest
    ) -> bool:
        with lease.cache.receiving("tensors" if manifest.tensors else "files") as mine:
            if mine:
                missing = lease.missing()
                if not missing:
                    return True
                taken = receive(stub, request, peer, known=manifest, missing=missing, lease=lease)
                log.info("run %s: %.1f MiB of the model from %s", self._run_id, taken / MIB, peer)
                return not lease.missing()
        if self._stop.wait(OTHERS_PAUSE_S):
            raise RoundGivenUpError("stopped while another client of this machine receives")
        return False

    def _request(self, blocks: Sequence[int], *, ends: bool) -> FetchBlocksRequest:
        return FetchBlocksRequest(run_id=self._run_id, client_id=self._settings.name, blocks=blocks, ends=ends)


def _described_by(manifest: Manifest, model: Checkpoint, cache: Cache) -> CachedCheckpoint:
    """A model with the tensors of a manifest, wherever they are to be in the cache."""
    return CachedCheckpoint(
        source=model.source,
        folder=model.folder,
        architecture=model.architecture,
        files={tensor.name: cache.content(tensor.sha256) for tensor in manifest.tensors},
        entries={tensor.name: tensor for tensor in manifest.tensors},
    )
