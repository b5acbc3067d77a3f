"""An edge's or a client's standing link to the cloud: registration, heartbeats, assignments.

The link outlives the cloud: when the cloud is gone it waits and asks again, when the cloud has forgotten the node it
registers anew, and every stream of assignments begins with the whole truth. It outlives this node's certificate too:
once that is renewed, a new channel shows the new one.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from elsa.errors import (
    CapacityError,
    DrainingError,
    ElsaError,
    FullDiskError,
    MalformedError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnreachableError,
)
from elsa.v1 import fleet_pb2 as pb
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.fleet_pb2_grpc import FleetServiceStub
from elsa.v1.run_pb2_grpc import RunServiceStub
from services.rpc.channel import patiently
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.identity import CLOUD_HOST
from services.rpc.status import translated

log = logging.getLogger(__name__)

Result = TypeVar("Result")
CALL_TIMEOUT_S = 10.0
REOPEN_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_REASON = 500
PASSING = (NotFoundError, UnreachableError, DrainingError, PeerError, CapacityError)
"""What a cloud that restarts, or that is in trouble, may answer for a while."""


class CloudLink:
    """One node's link to the cloud at `address`.

    Args:
        node_id: the node's registered name.
        register: makes the node known with the stub given; returns the seconds between heartbeats.
        stop: when set, threads and waits end.
        patience_s: how long to go on asking a cloud that does not answer.
        dialer: how this node reaches the cloud, and edges.

    Attributes:
        answered_unix_s: when the cloud last answered; None before it has.

    Raises AddressError if the dialer refuses the address.
    """

    def __init__(
        self,
        address: str,
        node_id: str,
        register: Callable[[FleetServiceStub], float],
        *,
        stop: threading.Event,
        patience_s: float,
        dialer: Dialer = LOOPBACK,
    ) -> None:
        self.peer = f"cloud {address}"
        self.node_id = node_id
        self.patience_s = patience_s
        self.stop = stop
        self.dialer = dialer
        self.answered_unix_s: float | None = None
        self._register = register
        self._address = address
        self._heartbeat_s = 1.0
        self._progress: dict[str, pb.Progress] = {}
        self._lock = threading.Lock()
        self._channels: list[grpc.Channel] = []
        self._dial()
        self._watch: Any = None
        self._beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Register, waiting for the cloud if need be, and begin to send heartbeats. Raises UnreachableError."""
        self._register_patiently()
        self._beats.start()

    def patiently(self, call: Callable[[], Result], *passing: type[ElsaError]) -> Result:
        """`call()` with retries while the cloud does not answer, or what it answers may pass.

        That is no room, as of a full disk or a rate that is used up, and a fault of its own. Errors that are
        `passing` are tried again too. Raises UnreachableError at once when the node stops.
        """
        return self._patiently(call, CapacityError, PeerError, *passing)

    def report(self, progress: pb.Progress) -> None:
        """Tell those who watch how far this node is, with the next heartbeat."""
        with self._lock:
            self._progress[progress.run_id] = progress

    @property
    def told(self) -> list[pb.Progress]:
        """The newest of each run that was reported."""
        with self._lock:
            return list(self._progress.values())

    def forget(self, run_id: str) -> None:
        """Tell no more of a run."""
        with self._lock:
            self._progress.pop(run_id, None)

    def assignments(self) -> Iterator[Sequence[pb.Assignment]]:
        """All assignments of this node, at once and after each change, until the node stops.

        Raises UnreachableError once the cloud has not answered for `patience_s` seconds, and what it answers instead
        of assignments once the pauses since the last ones add up to as much.
        """
        pause_s, paused_s = REOPEN_PAUSE_S, 0.0
        while not self.stop.is_set():
            shown = self._shown
            try:
                for assignments in self._watched():
                    pause_s, paused_s = REOPEN_PAUSE_S, 0.0
                    yield assignments
            except PASSING as error:
                if self.stop.is_set():
                    return
                if paused_s > self.patience_s:
                    raise
                if self._watch is not None:  # else it was this node that ended it
                    log.warning("lost %s: %s", self.peer, error)
            except UnauthenticatedError:
                self._redialed()
                if self._shown is shown:
                    raise
            if not self.stop.wait(pause_s):
                pause_s, paused_s = min(2 * pause_s, LONGEST_PAUSE_S), paused_s + pause_s
                self._return()

    def refuse(self, run_id: str, reason: str) -> bool:
        """Tell the cloud that this node does not take part in a run, or not any longer; whether it could be told."""
        request = pb.JoinRunRequest(run_id=run_id, node_id=self.node_id, refusal=_shortened(reason))
        try:
            self.patiently(lambda: self.fleet.JoinRun(request, timeout=CALL_TIMEOUT_S))
        except ElsaError as error:
            log.warning("run %s: %s was not told that this node leaves: %s", run_id, self.peer, error)
            return False
        return True

    def close(self) -> None:
        """End the watch, the heartbeats and the channel."""
        self.stop.set()
        self._end_watch()
        with self._lock:
            for channel in self._channels:
                channel.close()
        if self._beats.is_alive():
            self._beats.join(CALL_TIMEOUT_S)

    def _dial(self) -> None:
        """A new channel. Calls on the one before go on; the one before that is closed."""
        self._shown = self.dialer.certificate
        channel = self.dialer.connect(self._address, CLOUD_HOST)
        self.fleet = FleetServiceStub(channel)
        self.runs = RunServiceStub(channel)
        self.adapters = AdapterServiceStub(channel)
        for old in self._channels[:-1]:
            old.close()
        self._channels = [*self._channels[-1:], channel]

    def _redialed(self) -> bool:
        """Whether this node's certificate was renewed, which a new channel now shows."""
        with self._lock:
            if self.stop.is_set() or self.dialer.certificate is self._shown:
                return False
            self._dial()
            return True

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    def _enter(self) -> None:
        """Register, with the certificate that there is by now."""
        self._redialed()
        self._answered(self._register(self.fleet))
        log.info("registered with %s as %s", self.peer, self.node_id)

    def _register_patiently(self) -> None:
        """Register with retries, but for a fleet that is full, which does not pass by itself."""
        self._patiently(self._enter, FullDiskError)

    def _patiently(self, call: Callable[[], Result], *passing: type[ElsaError]) -> Result:
        return patiently(
            call,
            self.peer,
            limit_s=self.patience_s,
            sleep=self._sleep,
            passing=passing,
            stopped=self.stop.is_set,
        )

    def _return(self) -> None:
        """Register again, unless the node stops meanwhile or the cloud has a fault. Raises UnreachableError."""
        try:
            self._register_patiently()
        except (PeerError, CapacityError) as error:
            log.warning("%s does not take this node back yet: %s", self.peer, error)
        except UnreachableError:
            if not self.stop.is_set():
                raise

    def _watched(self) -> Iterator[Sequence[pb.Assignment]]:
        """The assignments of one watch."""
        with translated(self.peer):
            for message in self._open_watch():
                yield message.assignments

    def _open_watch(self) -> Any:
        stream = self.fleet.WatchAssignment(pb.WatchAssignmentRequest(node_id=self.node_id))
        self._watch = stream
        return stream

    def _beat(self) -> None:
        while not self.stop.wait(self._heartbeat_s):
            try:
                if self._redialed():
                    self._end_watch()  # it begins anew on the new channel
                self._tell()
            except UnauthenticatedError as error:  # said to the watch too when it begins anew
                log.warning("%s refuses this node: %s", self.peer, error)
                self._end_watch()
            except ElsaError as error:  # the watch waits and registers anew; a beat that is lost is lost
                log.debug("heartbeat: %s", error)

    def _tell(self) -> None:
        """One heartbeat; registers anew if the cloud has forgotten this node."""
        with self._lock:
            request = pb.HeartbeatRequest(node_id=self.node_id, progress=self._progress.values())
        with translated(self.peer):
            try:
                answer = self.fleet.Heartbeat(request, timeout=CALL_TIMEOUT_S)
                self._answered(answer.heartbeat_s or self._heartbeat_s)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self._enter()

    def _answered(self, heartbeat_s: float) -> None:
        """Note that the cloud answers, and what it tells of the next heartbeat."""
        if not 0 < heartbeat_s < math.inf:
            raise MalformedError(f"{self.peer}: heartbeat_s is {heartbeat_s}; it must be more than 0")
        self._heartbeat_s = heartbeat_s
        self.answered_unix_s = time.time()

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise UnreachableError(f"{self.peer}: stopped while waiting for it")


def _shortened(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
