"""The cloud's objects, put together around its store."""

from collections.abc import Callable
from dataclasses import dataclass

from elsa.v1 import adapter_pb2, adapter_pb2_grpc, fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc
from services.cloud.adapter_servicer import AdapterServicer
from services.cloud.adapters import Adapters
from services.cloud.blobs import Blobs
from services.cloud.changes import Changes
from services.cloud.cluster_view import ClusterView
from services.cloud.engine import Engine
from services.cloud.export import Exports
from services.cloud.fingerprints import Fingerprints
from services.cloud.fleet import Fleet
from services.cloud.fleet_servicer import FleetServicer
from services.cloud.keeper import Keeper
from services.cloud.keyring import Keyring
from services.cloud.metrics import CloudMetrics
from services.cloud.run_servicer import RunServicer
from services.cloud.runs import Runs
from services.cloud.settings import CloudSettings
from services.cloud.steps import Steps
from services.cloud.store import Store
from services.cloud.watch import RunWatch
from services.rpc.server import Service


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a cloud is made of."""

    changes: Changes
    keeper: Keeper
    fleet: Fleet
    engine: Engine
    figures: CloudMetrics
    services: list[Service]


async def put_together(settings: CloudSettings, store: Store, clock: Callable[[], float]) -> Parts:
    """The parts of a cloud; call it on its loop. Raises InputError if its blobs cannot be used."""
    blobs, changes = Blobs(settings.blobs), Changes()
    keeper = Keeper(store, blobs)
    await keeper.claim()
    await keeper.forget_lost()
    fleet = Fleet(store, pace=settings.pace, max_nodes=settings.max_nodes, clock=clock)
    exports = Exports(settings.state / "exports", blobs)
    steps = Steps(store, keeper, fleet, exports, gone_after_s=settings.gone_after_s)
    engine = Engine(store, steps, changes, clock=clock)
    return Parts(
        changes=changes,
        keeper=keeper,
        fleet=fleet,
        engine=engine,
        figures=CloudMetrics(store, fleet, engine, state=settings.state, database=settings.database, clock=clock),
        services=_services(settings, store, changes, keeper, fleet, exports, engine, clock),
    )


def _services(
    settings: CloudSettings,
    store: Store,
    changes: Changes,
    keeper: Keeper,
    fleet: Fleet,
    exports: Exports,
    engine: Engine,
    clock: Callable[[], float],
) -> list[Service]:
    runs = Runs(
        store,
        engine,
        changes,
        max_open_runs=settings.max_open_runs,
        max_spec_bytes=settings.max_spec_bytes,
        clock=clock,
    )
    adapters = Adapters(store, keeper, engine, changes, max_adapter_bytes=settings.max_adapter_bytes, clock=clock)
    watch = RunWatch(store, changes, clock=clock)
    keyring, fingerprints = Keyring(store, engine), Fingerprints(store, engine, changes, clock=clock)
    return [
        Service(
            servicer=FleetServicer(fleet, runs, engine, watch, keyring, fingerprints, store, changes),
            add=fleet_pb2_grpc.add_FleetServiceServicer_to_server,
            descriptor=fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
        ),
        Service(
            servicer=RunServicer(runs, watch, ClusterView(store), exports, store),
            add=run_pb2_grpc.add_RunServiceServicer_to_server,
            descriptor=run_pb2.DESCRIPTOR.services_by_name["RunService"],
        ),
        Service(
            servicer=AdapterServicer(adapters, idle_s=settings.idle_s),
            add=adapter_pb2_grpc.add_AdapterServiceServicer_to_server,
            descriptor=adapter_pb2.DESCRIPTOR.services_by_name["AdapterService"],
        ),
    ]
