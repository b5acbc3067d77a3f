"""What looks after a role: whether it is ready, and the two plain listeners that tell of it."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from services.rpc.metrics import Collector, MetricsListener, registry_of
from services.rpc.monitor_settings import MonitorSettings
from services.rpc.probes import Probes, Readiness
from services.rpc.tls import Own


class Monitoring:
    """Of one role; within the context its listeners answer. Entering it raises AddressError for a port that is taken.

    Args:
        collectors: the role's own figures.

    Attributes:
        readiness: what probes and metrics are told; the role says when it begins and ends.
        probes, metrics: the listeners, once there, where the settings ask for them.
    """

    def __init__(
        self, settings: MonitorSettings, role: str, own: Own | None, collectors: Sequence[Collector]
    ) -> None:
        self.readiness = Readiness()
        self.probes: Probes | None = None
        self.metrics: MetricsListener | None = None
        self._settings = settings
        self._registry = registry_of(role, self.readiness, own, collectors)

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Begin to answer. Raises AddressError."""
        settings = self._settings
        try:
            if settings.probe_port is not None:
                self.probes = Probes(settings.probe_host, settings.probe_port, self.readiness)
            if settings.metrics_port is not None:
                self.metrics = MetricsListener(settings.metrics_host, settings.metrics_port, self._registry)
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more."""
        self.readiness.end()
        for listener in (self.probes, self.metrics):
            if listener is not None:
                listener.close()
        self.probes = self.metrics = None
