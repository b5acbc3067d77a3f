"""The cloud as a process: has its objects put together, serves until it is told to stop, and closes them in order."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from elsa.errors import FullDiskError, InputError, UnreachableError
from services.cloud.certified import FleetGuard
from services.cloud.engine import Engine
from services.cloud.keeper import Keeper
from services.cloud.parts import Parts, put_together
from services.cloud.settings import CloudSettings
from services.cloud.store import Store
from services.rpc.calls import Calls
from services.rpc.metrics import RefusalMetrics
from services.rpc.monitoring import Monitoring
from services.rpc.probes import Readiness
from services.rpc.process import stop_on_signals, write_ready
from services.rpc.rates import Rates
from services.rpc.server import check_host, start_aio
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
    store = Store(settings.database)
    try:
        parts = await put_together(settings, store, clock)
        guard = FleetGuard(parts.fleet, revoked_of(own), Rates(settings.rates)) if own else None
        calls = Calls()
        with Monitoring(settings, "cloud", own, [parts.figures, calls, RefusalMetrics(guard)]) as monitoring:
            server = await start_aio(
                parts.services,
                host=settings.host,
                port=settings.port,
                insecure=settings.insecure,
                credentials=server_credentials(own) if own else None,
                guard=guard,
                calls=calls,
            )
            async with _working(parts, settings, monitoring.readiness, clock):
                try:
                    yield Cloud(address=server.address, engine=parts.engine, monitoring=monitoring)
                finally:
                    monitoring.readiness.end()
                    parts.changes.close()
                    await server.stop(settings.grace_s)
    finally:
        store.close()


@asynccontextmanager
async def _working(
    parts: Parts, settings: CloudSettings, readiness: Readiness, clock: Callable[[], float]
) -> AsyncIterator[None]:
    """Within it runs advance, blobs are swept, and the cloud is ready; at its end nothing goes on."""
    loops = (parts.engine.tick(settings.tick_s), _sweep(parts.keeper, settings, clock), _turn(readiness))
    tasks = [asyncio.create_task(loop) for loop in loops]
    readiness.begin()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await parts.engine.close()


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


def _make_folder(settings: CloudSettings) -> None:
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot keep state in {settings.state} ({error.strerror}); set ELSA_STATE") from error
