"""The cloud as a process: puts its objects together, serves until it is told to stop, and closes them in order."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from elsa.errors import FullDiskError, InputError, UnreachableError
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
from services.rpc.calls import Calls
from services.rpc.guard import Guard
from services.rpc.metrics import RefusalMetrics
from services.rpc.monitoring import Monitoring
from services.rpc.probes import Readiness
from services.rpc.process import stop_on_signals, write_ready
from services.rpc.rates import Rates
from services.rpc.server import Service, check_host, start_aio
from services.rpc.tls import own_certificate, revoked_of, server_credentials

log = logging.getLogger(__name__)
_TURN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A cloud that serves."""

    address: str
    engine: Engine
    monitoring: Monitoring


@asynccontextmanager
async def serving(settings: CloudSettings, clock: Callable[[], float] = time.time) -> AsyncIterator[Cloud]:
    """A cloud that serves within the context; `clock` gives unix seconds.

    Raises AddressError if it may not or cannot listen, InputError if its certificate cannot be used or its state not
    be kept.
    """
    own = own_certificate(settings.tls, settings.insecure, "cloud")
    check_host(settings.host, settings.insecure or own is not None)
    _make_folder(settings)
    store, changes = Store(settings.database), Changes()
    try:
        blobs = Blobs(settings.blobs)
        keeper = Keeper(store, blobs)
        await keeper.claim()
        await keeper.forget_lost()
        fleet = Fleet(store, pace=settings.pace, max_nodes=settings.max_nodes, clock=clock)
        exports = Exports(settings.state / "exports", blobs)
        steps = Steps(store, keeper, fleet, exports, gone_after_s=settings.gone_after_s)
        engine = Engine(store, steps, changes, clock=clock)
        services = _services(settings, store, changes, keeper, fleet, exports, engine, clock)
        guard, calls = Guard("cloud", revoked_of(own), Rates(settings.rates)) if own else None, Calls()
        figures = CloudMetrics(store, fleet, engine, state=settings.state, database=settings.database, clock=clock)
        with Monitoring(settings, "cloud", own, [figures, calls, RefusalMetrics(guard)]) as monitoring:
            server = await start_aio(
                services,
                host=settings.host,
                port=settings.port,
                insecure=settings.insecure,
                credentials=server_credentials(own) if own else None,
                guard=guard,
                calls=calls,
            )
            ticking = asyncio.create_task(engine.tick(settings.tick_s))
            sweeping = asyncio.create_task(_sweep(keeper, settings, clock))
            turning = asyncio.create_task(_turn(monitoring.readiness))
            monitoring.readiness.begin()
            try:
                yield Cloud(address=server.address, engine=engine, monitoring=monitoring)
            finally:
                monitoring.readiness.end()
                changes.close()
                await server.stop(settings.grace_s)
                for task in (ticking, sweeping, turning):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await engine.close()
    finally:
        store.close()


async def serve(settings: CloudSettings, clock: Callable[[], float] = time.time) -> None:
    """Serve until SIGTERM or SIGINT. Raises as `serving`."""
    stop = stop_on_signals()
    async with serving(settings, clock) as cloud:
        log.info("cloud: serving at %s, state in %s", cloud.address, settings.state)
        await asyncio.to_thread(write_ready, settings.ready_file, cloud.address)
        await asyncio.to_thread(stop.wait)


def run(settings: CloudSettings) -> None:
    """Serve until SIGTERM or SIGINT, from synchronous code. Raises as `serving`."""
    asyncio.run(serve(settings))


async def _turn(readiness: Readiness) -> None:
    """Say again and again that this loop turns; runs until cancelled."""
    while True:
        readiness.turned()
        await asyncio.sleep(_TURN_S)


async def _sweep(keeper: Keeper, settings: CloudSettings, clock: Callable[[], float]) -> None:
    """Look for blobs that nothing refers to, at once and every so many seconds; runs until cancelled."""
    while True:
        try:
            if swept := await keeper.sweep(settings.sweep_grace_s, clock()):
                log.info("%d blobs that nothing referred to are removed", swept)
        except (OSError, SQLAlchemyError, UnreachableError, FullDiskError) as error:
            log.warning("blobs could not be swept: %s", (str(error).splitlines() or [type(error).__name__])[0])
        except Exception:  # the outermost loop of sweeping: a bucket's library has errors of its own
            log.exception("blobs could not be swept; trying again in %g s", settings.sweep_s)
        await asyncio.sleep(settings.sweep_s)


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


def _make_folder(settings: CloudSettings) -> None:
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot keep state in {settings.state} ({error.strerror}); set ELSA_STATE") from error
