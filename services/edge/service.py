"""An edge as a process: its server, its link to the cloud, its runs, and an orderly end."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import torch

from elsa.errors import DrainingError, UnreachableError
from elsa.v1 import adapter_pb2, adapter_pb2_grpc, fleet_pb2, split_pb2, split_pb2_grpc
from elsa.v1.fleet_pb2_grpc import FleetServiceStub
from elsa.wire.kept import Shelf
from services.edge.adapter_servicer import AdapterServicer
from services.edge.driver import RunDriver
from services.edge.idle import IdleStreams
from services.edge.metrics import EdgeMetrics
from services.edge.profile import Profiler
from services.edge.run import EdgeRuns
from services.edge.sessions import Sessions
from services.edge.settings import EdgeSettings
from services.edge.split_servicer import SplitServicer
from services.edge.state import EdgeState
from services.edge.worker import STOPPED, Worker
from services.rpc.calls import Calls
from services.rpc.dial import Dialer
from services.rpc.drivers import RunDrivers
from services.rpc.guard import Guard
from services.rpc.ledger import Ledger
from services.rpc.memory import usable_bytes
from services.rpc.metrics import Collector, NodeMetrics, RefusalMetrics
from services.rpc.monitoring import Monitoring
from services.rpc.node import CALL_TIMEOUT_S, CloudLink
from services.rpc.pace import Pace
from services.rpc.process import stop_on_signals, write_ready
from services.rpc.rates import Rates
from services.rpc.server import BoundServer, Service, start
from services.rpc.tls import own_certificate, revoked_of, server_credentials

log = logging.getLogger(__name__)

SPARE_THREADS = 8
ANSWER_S = 5.0
"""For calls to be answered that they were ended."""
JOIN_S = 5.0
LOOK_S = 0.02
"""Between two looks whether all clients have finished."""


class Edge:
    """A whole edge. `start`, then `follow` until it is stopped, then `close`.

    Raises InputError if its certificate cannot be used, AddressError if the cloud may not be called without one.
    """

    def __init__(self, settings: EdgeSettings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        pace = Pace.parse(settings.pace)
        self._worker = Worker(pace)
        self._profiler = Profiler(
            self._worker,
            capacity=settings.capacity,
            pace=pace,
            folder=settings.profiles_folder,
            models=settings.models,
        )
        self._ledger = Ledger(lambda: usable_bytes(settings.max_memory_mib))
        self._runs = EdgeRuns(Sessions(settings.capacity, settings.idle_timeout_s))
        self._idle = IdleStreams(settings.idle_timeout_s)
        self._state = EdgeState(settings.state_folder, settings.name)
        self._shelf = Shelf(settings.reuse_memory_mib << 20, settings.reuse_disk_mib << 20)
        self._drivers = RunDrivers(self._new_driver)
        self._server: BoundServer | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._own = own_certificate(settings.tls, settings.insecure, "edge", settings.name)
        rates = Rates(settings.rates)
        self._guard = Guard("edge", revoked_of(self._own), rates) if self._own else None
        self._calls = Calls()
        self._link = CloudLink(
            settings.cloud,
            settings.name,
            self._register,
            stop=stop,
            patience_s=settings.patience_s,
            dialer=Dialer(own=self._own, insecure=settings.insecure),
        )
        common = NodeMetrics(self._link, self._ledger, lambda: usable_bytes(settings.max_memory_mib))
        figures: list[Collector] = [EdgeMetrics(self._runs), common, self._calls, RefusalMetrics(self._guard)]
        self.monitoring = Monitoring(settings, "edge", self._own, figures)

    @property
    def address(self) -> str:
        """Where this edge listens, once started."""
        if self._server is None:
            raise RuntimeError("the edge has not been started")
        return self._server.address

    def start(self) -> None:
        """Listen, and make this edge known to the cloud. Raises AddressError, UnreachableError, DrainingError."""
        services = [
            Service(
                servicer=SplitServicer(self._runs, self._worker, self._idle),
                add=split_pb2_grpc.add_SplitServiceServicer_to_server,
                descriptor=split_pb2.DESCRIPTOR.services_by_name["SplitService"],
            ),
            Service(
                servicer=AdapterServicer(self._runs, self._idle),
                add=adapter_pb2_grpc.add_AdapterServiceServicer_to_server,
                descriptor=adapter_pb2.DESCRIPTOR.services_by_name["AdapterService"],
            ),
        ]
        settings = self._settings
        threads = (
            3 * settings.capacity + SPARE_THREADS
        )  # for each session a stream, a pull, and weights that are sent
        with self._closing:
            if self._closed:
                raise DrainingError(STOPPED)
            self.monitoring.start()
            self._server = start(
                services,
                host=settings.host,
                port=settings.port,
                threads=threads,
                insecure=settings.insecure,
                credentials=server_credentials(self._own) if self._own else None,
                guard=self._guard,
                calls=self._calls,
            )
        log.info("%s listens on %s", settings.name, self.address)
        self._link.start()
        self.monitoring.readiness.begin()
        threading.Thread(target=self._drop_idle, name="idle", daemon=True).start()

    def follow(self) -> None:
        """Do what the cloud assigns until stopped. Raises UnreachableError once the cloud stays away."""
        self._drivers.follow(self._swept(self._link.assignments()))

    def drain(self) -> None:
        """Begin nothing new, and let clients finish the edge rounds that are open, at most `grace_s` seconds."""
        self.monitoring.readiness.end()
        if self._server is not None:
            self._server.health.drain()
        self._drivers.begin_no_more()
        self._runs.drain()
        end_s = time.monotonic() + self._settings.grace_s
        while not self._runs.at_rest and not self._stop.wait(LOOK_S):
            if time.monotonic() > end_s:
                log.warning("clients have not finished within %g s; stopping all the same", self._settings.grace_s)
                break

    def close(self) -> None:
        """End the runs and all calls, and leave."""
        self._stop.set()
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self.monitoring.readiness.end()
            self._drivers.close()
            self._link.close()
            self._idle.end_all()
            if self._server is not None:
                self._server.stop(ANSWER_S)
            self._worker.stop()
            self._drivers.join(JOIN_S)
            self.monitoring.close()

    def _register(self, fleet: FleetServiceStub) -> float:
        request = fleet_pb2.RegisterEdgeRequest(
            edge_id=self._settings.name,
            address=self._settings.advertise or self.address,
            capacity=self._settings.capacity,
        )
        return fleet.RegisterEdge(request, timeout=CALL_TIMEOUT_S).heartbeat_s

    def _new_driver(self, assignment: fleet_pb2.Assignment) -> RunDriver:
        return RunDriver(
            assignment.run_id,
            assignment.spec,
            link=self._link,
            runs=self._runs,
            worker=self._worker,
            profiler=self._profiler,
            shelf=self._shelf,
            ledger=self._ledger,
            state=self._state,
        )

    def _swept(self, changes: Iterable[Sequence[fleet_pb2.Assignment]]) -> Iterator[Sequence[fleet_pb2.Assignment]]:
        """The same; what was kept of runs that are not among the first is forgotten: they have ended meanwhile."""
        for number, assignments in enumerate(changes):
            if number == 0:
                self._state.keep_only([assignment.run_id for assignment in assignments])
            yield assignments

    def _drop_idle(self) -> None:
        while not self._stop.wait(min(1.0, self._settings.idle_timeout_s / 4)):
            self._runs.drop_idle(self._worker)
            self._idle.end_idle()


def run(settings: EdgeSettings) -> None:
    """Run an edge until SIGTERM or SIGINT. Raises AddressError, UnreachableError, InputError."""
    torch.set_num_threads(settings.threads)
    asked = stop_on_signals()
    edge = Edge(settings, threading.Event())

    def close_when_stopped() -> None:
        asked.wait()
        edge.drain()
        edge.close()

    threading.Thread(target=close_when_stopped, name="stopper", daemon=True).start()
    try:
        edge.start()
        write_ready(settings.ready_file, edge.address)
        edge.follow()
    except (UnreachableError, DrainingError):
        if not asked.is_set():  # a call that the end cut off
            raise
    finally:
        edge.close()
