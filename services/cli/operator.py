"""An operator's link to the cloud: submit, look, watch, cancel and export runs, waiting for a cloud that is away."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from elsa.errors import DrainingError, MalformedError, NotFoundError, UnreachableError
from elsa.v1 import run_pb2 as pb
from elsa.v1.run_pb2_grpc import RunServiceStub
from services.cli.folder import receive_folder
from services.rpc.channel import patiently
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.identity import CLOUD_HOST
from services.rpc.status import translated

log = logging.getLogger(__name__)
Result = TypeVar("Result")

CALL_TIMEOUT_S = 10.0
EVENTS_TIMEOUT_S = 120.0
EXPORT_TIMEOUT_S = 600.0
HANDSHAKE_S = 1.5
"""A peer with whom this side does not come to terms may be something in between, while the cloud starts."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


class Operator:
    """A person's calls to the cloud at `address`; one that does not answer is asked again for `patience_s` seconds.

    Calls raise the errors of `elsa.errors`; UnreachableError once patience is used up. Raises AddressError if the
    `dialer` refuses the address.
    """

    def __init__(
        self,
        address: str,
        patience_s: float,
        *,
        dialer: Dialer = LOOPBACK,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.peer = f"cloud {address}"
        self._patience_s = patience_s
        self._sleep = sleep
        self._channel = dialer.connect(address, CLOUD_HOST)
        self._address = address
        self._closed = self._answered = False
        self._runs = RunServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._closed = True
        self._channel.close()

    def list(self) -> Sequence[pb.Run]:
        """All runs, newest first."""
        runs: list[pb.Run] = []
        request = pb.ListRunsRequest()
        while True:
            answer = self._patiently(lambda: self._runs.ListRuns(request, timeout=CALL_TIMEOUT_S))
            runs += answer.runs
            if not answer.next_page_token:
                return runs
            request.page_token = answer.next_page_token

    def get(self, run_id: str) -> pb.Run:
        """One run by its id."""
        request = pb.GetRunRequest(run_id=run_id)
        return self._patiently(lambda: self._runs.GetRun(request, timeout=CALL_TIMEOUT_S)).run

    def resolve(self, prefix: str) -> str:
        """The id of the one run whose id begins so. Raises NotFoundError if there is none, or more than one."""
        with suppress(NotFoundError, MalformedError):  # a few characters may be no id at all
            return self.get(prefix).run_id
        ids = [run.run_id for run in self.list()]
        fitting = [run_id for run_id in ids if run_id.startswith(prefix)]
        if len(fitting) == 1 and prefix:
            return fitting[0]
        if fitting:
            shown = ", ".join(fitting[:5])
            raise NotFoundError(f"{prefix!r} begins the ids of {len(fitting)} runs ({shown}); write more of it")
        raise NotFoundError(f"{self.peer} has no run {prefix!r}; elsa run list shows those it has")

    def submit(self, spec: str) -> str:
        """Make a run of a specification in YAML; its id. It is sent once, after the cloud has answered."""
        with suppress(NotFoundError, MalformedError):
            self.get("")
        with translated(self.peer):
            return str(self._runs.SubmitRun(pb.SubmitRunRequest(spec=spec), timeout=CALL_TIMEOUT_S).run_id)

    def cancel(self, run_id: str) -> None:
        """End a run. Raises StaleRoundError if it has ended."""
        self.get(run_id)  # waits for a cloud that is away; the call itself is made once
        with translated(self.peer):
            self._runs.CancelRun(pb.CancelRunRequest(run_id=run_id), timeout=CALL_TIMEOUT_S)

    def clusters(self, run_id: str) -> pb.GetClustersResponse:
        """Who learns with whom, as newly decided. Raises NotFoundError before the run has clustered."""
        request = pb.GetClustersRequest(run_id=run_id)
        return self._patiently(lambda: self._runs.GetClusters(request, timeout=CALL_TIMEOUT_S))

    def profiles(self, run_id: str) -> pb.GetProfilesResponse:
        """What a run's devices measured. Raises StaleRoundError for a run that plans no splits or has no plan yet."""
        request = pb.GetProfilesRequest(run_id=run_id)
        return self._patiently(lambda: self._runs.GetProfiles(request, timeout=CALL_TIMEOUT_S))

    def watch(self, run_id: str) -> Iterator[pb.RunEvent]:
        """A run's events from its first one on, until it has ended; goes on where it was after a cloud's restart."""
        after, pause = 0, FIRST_PAUSE_S
        while True:
            stream = self._runs.WatchRun(pb.WatchRunRequest(run_id=run_id, after=after))
            try:
                with translated(self.peer):
                    for message in stream:
                        after, pause = message.event.sequence or after, FIRST_PAUSE_S
                        yield message.event
                return
            except (UnreachableError, DrainingError) as error:
                if self._closed:
                    return
                log.warning("lost %s: %s", self.peer, error)
                self.get(run_id)
                self._sleep(pause)  # the cloud may answer and yet end every stream
                pause = min(2 * pause, LONGEST_PAUSE_S)
            finally:
                stream.cancel()  # type: ignore[no-untyped-call]

    def so_far(self, run_id: str) -> Sequence[pb.RunEvent]:
        """A run's events from its first one to its newest."""
        request = pb.WatchRunRequest(run_id=run_id, so_far=True)
        return self._patiently(
            lambda: [message.event for message in self._runs.WatchRun(request, timeout=EVENTS_TIMEOUT_S)]
        )

    def export(self, run_id: str, folder: Path, *, version: int | None = None, cluster: int | None = None) -> None:
        """Write a version's PEFT folder (the newest when None), or that of one cluster, whole or not at all.

        Raises as `receive_folder`, and NotFoundError where there is no such version or the cluster has none of it.
        """
        request = pb.ExportAdapterRequest(run_id=run_id, version=version, cluster=cluster)
        self._patiently(lambda: receive_folder(self._runs.ExportAdapter(request, timeout=EXPORT_TIMEOUT_S), folder))

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """As `patiently`; what keeps us from a cloud that never answered does not pass by itself."""
        borne_s = math.inf if self._answered else HANDSHAKE_S
        try:
            result = patiently(call, self.peer, limit_s=self._patience_s, handshake_s=borne_s, growth=1.0)
        except UnreachableError as error:
            raise type(error)(f"{error}; elsa doctor --cloud {self._address} looks for the cause") from error
        self._answered = True
        return result
