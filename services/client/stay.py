"""A client's times with its edges in one run: each until the cloud names another edge, or the run ends here."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from elsa.errors import ElsaError, HandshakeError, RoundGivenUpError, UnauthenticatedError
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.fleet_pb2 import Assignment, EdgePeer, RunState
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.identity import Identity

log = logging.getLogger(__name__)


class Stay:
    """Connects to `edge` by `dialer`, whose errors it raises; `end` may be called from any thread.

    Attributes:
        peer: how to call the edge in errors.
        over: set once the stay has ended; whoever waits for the edge is to wait no more.
    """

    def __init__(self, edge: EdgePeer, dialer: Dialer = LOOPBACK) -> None:
        self.edge = edge
        self.peer = f"edge {edge.edge_id} at {edge.address}"
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._dialer = dialer
        self._shown = dialer.certificate
        self._channel: grpc.Channel = dialer.connect(edge.address, Identity("edge", edge.edge_id).host)

    def stubs(self) -> tuple[SplitServiceStub, AdapterServiceStub]:
        """The edge's services. Raises RoundGivenUpError if the stay has ended.

        Under the lock: gRPC crashes if a stub is made on a channel that closes.
        """
        with self._lock:
            if self.over.is_set():
                raise RoundGivenUpError(f"{self.peer} was left before it was asked")
            return SplitServiceStub(self._channel), AdapterServiceStub(self._channel)

    def ended_by(self, error: ElsaError) -> bool:
        """Whether `error` follows from the stay's end, or from a certificate that has been renewed meanwhile."""
        refused = isinstance(error, UnauthenticatedError | HandshakeError)
        renewed = refused and self._dialer.certificate is not self._shown
        return renewed or self.over.is_set()

    def end(self) -> None:
        """End every call to the edge, now and later; nothing more if it has ended."""
        self.over.set()
        with self._lock:
            self._channel.close()


class Stays:
    """What the cloud says of this client's edge in a run, and the stay that follows from it.

    The run's thread takes stays, another tells of assignments.
    """

    def __init__(self, run_id: str, dialer: Dialer = LOOPBACK) -> None:
        self._run_id = run_id
        self._dialer = dialer
        self._told = Assignment()
        self._changed = threading.Condition()
        self._now: Stay | None = None
        self._closed = False

    @property
    def told(self) -> Assignment:
        """The newest assignment; an empty one before the first."""
        return self._told

    def tell(self, assignment: Assignment) -> None:
        """The cloud's newest word: a stay at another edge, or at another address of the same, is over."""
        with self._changed:
            self._told, now = assignment, self._now
            self._changed.notify_all()
        if now is not None and assignment.edges and assignment.edges[0] != now.edge:
            now.end()

    def close(self) -> None:
        """The run has ended here: the stay is over, and none begins any more."""
        with self._changed:
            self._closed, now = True, self._now
            self._changed.notify_all()
        if now is not None:
            now.end()

    def wait(self, *states: RunState.ValueType, shared: bool = False) -> Assignment:
        """The newest assignment, once it is in one of `states` and names an edge. Raises RoundGivenUpError.

        Args:
            shared: wait also for a share, which comes where splits are planned.
        """

        def there() -> bool:
            told = self._told
            return told.state in states and bool(told.edges) and (not shared or told.HasField("share"))

        with self._changed:
            self._changed.wait_for(lambda: self._closed or there())
            if self._closed:
                raise RoundGivenUpError("stopped before its edge was named")
            return self._told

    @contextmanager
    def take(self, *states: RunState.ValueType, shared: bool = False) -> Iterator[Stay]:
        """A stay at the edge of the newest assignment in `states`, which ends with the context; waits as `wait`.

        Errors that come once it is over follow from its end, and leave the context quietly; so does a refusal of a
        certificate that has been renewed, which the next stay shows. Raises RoundGivenUpError.
        """
        with self._changed:
            stay = self._now = Stay(self.wait(*states, shared=shared).edges[0], self._dialer)
        try:
            yield stay
        except ElsaError as error:
            if not stay.ended_by(error):
                raise
            log.info("run %s: left %s (%s)", self._run_id, stay.peer, error)
        finally:
            stay.end()
