"""What a client has trained since it started, of all runs together: edge rounds that it finished and pushed."""

import threading
from collections.abc import Mapping
from dataclasses import asdict

from elsa.train.phases import ByteCount, PhaseSeconds
from elsa.v1.adapter_pb2 import ClientReport


class Tally:
    """Counts. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[int, float]] = {}
        self._seconds = PhaseSeconds()
        self.rounds = 0
        self.steps = 0
        self.bytes = ByteCount()

    def trained(self, run_id: str, report: ClientReport) -> None:
        """A round was trained and pushed, with this report."""
        spent, moved = report.seconds, report.bytes
        seconds = PhaseSeconds(
            bottom=spent.bottom, network=spent.network, wait=spent.wait, trunk=spent.trunk, top=spent.top
        )
        with self._lock:
            self._newest[run_id] = report.rows, report.loss
            self._seconds += seconds
            self.rounds += 1
            self.steps += report.steps
            self.bytes += ByteCount(up=moved.up, down=moved.down)

    def left(self, run_id: str) -> None:
        """The client is in that run no more."""
        with self._lock:
            self._newest.pop(run_id, None)

    @property
    def newest(self) -> Mapping[str, tuple[int, float]]:
        """Of each run that it is in, the rows and the mean loss of its newest round."""
        with self._lock:
            return dict(self._newest)

    @property
    def seconds(self) -> Mapping[str, float]:
        """By phase."""
        return asdict(self._seconds)
