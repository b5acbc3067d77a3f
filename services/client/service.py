"""A client as a process: its link to the cloud, its runs, and an orderly end."""

import logging
import threading

import torch

from elsa.data.source import check_source
from elsa.errors import UnreachableError
from elsa.v1 import fleet_pb2
from elsa.v1.fleet_pb2_grpc import FleetServiceStub
from services.client.driver import RunDriver
from services.client.metrics import ClientMetrics
from services.client.settings import ClientSettings
from services.client.tally import Tally
from services.rpc.dial import Dialer
from services.rpc.drivers import RunDrivers
from services.rpc.ledger import Ledger
from services.rpc.memory import keep_little, usable_bytes
from services.rpc.metrics import Collector, NodeMetrics
from services.rpc.monitoring import Monitoring
from services.rpc.node import CALL_TIMEOUT_S, CloudLink
from services.rpc.process import stop_on_signals, write_ready
from services.rpc.tls import own_certificate

log = logging.getLogger(__name__)

JOIN_S = 5.0


class Client:
    """A whole client. `start`, then `follow` until it is stopped, then `close`.

    Raises InputError if its certificate cannot be used, AddressError if the cloud may not be called without one.
    """

    def __init__(self, settings: ClientSettings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._ledger = Ledger(lambda: usable_bytes(settings.max_memory_mib))
        self._tally = Tally()
        self._drivers = RunDrivers(self._new_driver)
        own = own_certificate(settings.tls, settings.insecure, "client", settings.name)
        self._link = CloudLink(
            settings.cloud,
            settings.name,
            self._register,
            stop=stop,
            patience_s=settings.patience_s,
            dialer=Dialer(own=own, insecure=settings.insecure),
        )
        common = NodeMetrics(self._link, self._ledger, lambda: usable_bytes(settings.max_memory_mib))
        figures: list[Collector] = [ClientMetrics(self._link, self._tally, lambda: self._drivers.count), common]
        self.monitoring = Monitoring(settings, "client", own, figures)
        self._closing = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Make this client known to the cloud. Raises UnreachableError, AddressError."""
        with self._closing:
            if self._closed:
                raise UnreachableError("this client was stopped before it began")
            self.monitoring.start()
        self._link.start()
        self.monitoring.readiness.begin()

    def follow(self) -> None:
        """Do what the cloud assigns until stopped. Raises UnreachableError once the cloud stays away."""
        self._drivers.follow(self._link.assignments())

    def close(self) -> None:
        """End the runs and leave."""
        self._stop.set()
        self.monitoring.readiness.end()
        with self._closing:
            self._closed = True
            self._drivers.close()
            self._link.close()
            self._drivers.join(JOIN_S)
            self.monitoring.close()

    def _register(self, fleet: FleetServiceStub) -> float:
        request = fleet_pb2.RegisterClientRequest(client_id=self._settings.name, datasets=sorted(self._settings.data))
        return fleet.RegisterClient(request, timeout=CALL_TIMEOUT_S).heartbeat_s

    def _new_driver(self, assignment: fleet_pb2.Assignment) -> RunDriver:
        return RunDriver(
            assignment.run_id,
            assignment.spec,
            settings=self._settings,
            link=self._link,
            ledger=self._ledger,
            tally=self._tally,
        )


def run(settings: ClientSettings) -> None:
    """Run a client until SIGTERM or SIGINT. Raises UnreachableError, InputError, DataError for a file not there."""
    for source in (*settings.data.values(), *settings.heldout.values()):
        check_source(source)
    keep_little()
    torch.set_num_threads(settings.threads)
    stop = stop_on_signals()
    client = Client(settings, stop)

    def close_when_stopped() -> None:
        stop.wait()
        client.close()

    threading.Thread(target=close_when_stopped, name="stopper", daemon=True).start()
    try:
        client.start()
        write_ready(settings.ready_file, "")
        client.follow()
    except UnreachableError:
        if not stop.is_set():  # a call that the end cut off
            raise
    finally:
        client.close()
