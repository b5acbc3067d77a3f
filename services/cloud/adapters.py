"""Adapters that come from edges and go to them."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from elsa.errors import (
    CapacityError,
    ChecksumError,
    DrainingError,
    MalformedError,
    NotFoundError,
    PermissionDeniedError,
    RoundGivenUpError,
    StaleRoundError,
)
from elsa.model.adapter_config import AdapterConfig
from elsa.wire.adapter import decode_adapter
from services.cloud.changes import Changes
from services.cloud.engine import Engine
from services.cloud.events import UpdateReceived
from services.cloud.fleet import check_number
from services.cloud.keeper import Keeper
from services.cloud.lifecycle import RunState
from services.cloud.records import Answer, ClientReport, Member, Role, Round, Run, Update
from services.cloud.rounds import working_edges
from services.cloud.runs import member_of
from services.cloud.store import Store, Transaction

Layout = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Push:
    """What an edge says of the adapter that it pushes."""

    run_id: str
    node_id: str
    version: int
    rows: int
    total_bytes: int
    sha256: str
    reports: tuple[ClientReport, ...] = ()
    initial: bool = False
    config: AdapterConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A global adapter."""

    version: int
    sha256: str
    data: bytes


class Adapters:
    """Takes edges' adapters and gives global ones; the arithmetic is the engine's."""

    def __init__(
        self,
        store: Store,
        keeper: Keeper,
        engine: Engine,
        changes: Changes,
        *,
        max_adapter_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._keeper, self._engine, self._changes = store, keeper, engine, changes
        self._max_adapter_bytes = max_adapter_bytes
        self._clock = clock
        self._layouts: dict[str, Layout] = {}

    def check(self, push: Push) -> None:
        """Refuse a push before its bytes come. Raises as `take`, and CapacityError for too large a one."""
        if push.total_bytes > self._max_adapter_bytes:
            raise CapacityError(
                f"header.total_bytes: {push.total_bytes}; at most {self._max_adapter_bytes} are taken here; "
                "lower lora.rank or raise ELSA_MAX_ADAPTER_BYTES"
            )
        check_number("header.total_bytes", push.total_bytes, 1)
        with self._store.transaction() as transaction:
            if _check_new(transaction, push) and not push.initial:
                _check_size(push, _first(transaction, push.run_id))

    async def take(self, push: Push, data: bytes) -> bool:
        """Keep an adapter; False if the same one had been taken before.

        Raises:
            NotFoundError, PermissionDeniedError: an unknown run or node, a node that is no edge of the run.
            StaleRoundError, RoundGivenUpError: a round that is over, a run that is not at that point or has ended.
            ChecksumError: bytes that are not those of the digest.
            MalformedError: names, shapes or values that do not fit.
        """
        layout = await asyncio.to_thread(_verified_layout, push, data)
        if not push.initial:
            _check_layout(push, layout, await self._expected(push.run_id))
        async with self._keeper.holding(push.sha256):
            try:
                if not await self._keep(push, data):
                    return False
            except BaseException:
                await self._keeper.drop_held(push.sha256)
                raise
        self._changes.notify(("events", push.run_id), ("run", push.run_id))
        self._engine.kick(push.run_id)
        return True

    async def _keep(self, push: Push, data: bytes) -> bool:
        with self._store.transaction() as transaction:
            if not _check_new(transaction, push):
                return False
        await self._keeper.put(data)
        with self._store.transaction() as transaction:
            if not _check_new(transaction, push):
                return False
            _keep(transaction, push, self._clock())
        return True

    async def pull(self, run_id: str, node_id: str, version: int, wait_s: float) -> Pulled:
        """The newest global adapter at or past `version`, waiting up to `wait_s` seconds, at most 60, for it.

        Raises:
            NotFoundError, PermissionDeniedError: an unknown run or node, a node that has no part in the run.
            DrainingError: it is not there yet.
            RoundGivenUpError: the run ended without it.
        """
        check_number("wait_s", wait_s, 0, 60)
        try:
            async with asyncio.timeout(wait_s):
                while (made := self._newest(run_id, node_id, version)) is None:
                    await self._changes.next(("run", run_id)).wait()
        except TimeoutError as error:
            raise DrainingError(f"version {version} of run {run_id} is not there yet; ask again") from error
        sha256 = made.sha256 or ""
        return Pulled(version=made.version, sha256=sha256, data=await self._keeper.get(sha256))

    def _newest(self, run_id: str, node_id: str, version: int) -> Round | None:
        with self._store.transaction() as transaction:
            run, member = transaction.run(run_id), member_of(transaction, run_id, node_id)
            if member.answer in (Answer.REFUSED, Answer.LEFT_OUT):
                raise PermissionDeniedError(f"{node_id} has no part in run {run_id}: {member.answer}")
            if run.version is not None and run.version >= version:
                return transaction.get(Round, run_id=run_id, version=run.version)
        if run.state.ended:
            raise RoundGivenUpError(f"run {run_id} has ended ({run.state}) without version {version}")
        return None

    async def _expected(self, run_id: str) -> Layout:
        """Names and shapes of a run's version 0."""
        if run_id in self._layouts:
            return self._layouts[run_id]
        with self._store.transaction() as transaction:
            first, still = _first(transaction, run_id), {run.run_id for run in transaction.open_runs()}
        layout = await asyncio.to_thread(_layout, await self._keeper.get(first.sha256 or ""))
        self._layouts = {known: kept for known, kept in self._layouts.items() if known in still}
        self._layouts[run_id] = layout
        return layout


def _first(transaction: Transaction, run_id: str) -> Round:
    first = transaction.get(Round, run_id=run_id, version=0)
    if first is None or first.sha256 is None:
        raise NotFoundError(f"run {run_id} has no first adapter; push that first")
    return first


def _check_size(push: Push, first: Round) -> None:
    """Adapters of a run have the same names and shapes, and so the same size."""
    if push.total_bytes != first.total_bytes:
        raise MalformedError(
            f"header.total_bytes: {push.total_bytes} of {push.node_id}, version 0 has {first.total_bytes}; "
            "push the whole adapter, with the names and shapes of version 0"
        )


def _check_new(transaction: Transaction, push: Push) -> bool:
    """Whether a push is wanted; False if it was taken before. Raises as `Adapters.take`."""
    run, member = transaction.run(push.run_id), member_of(transaction, push.run_id, push.node_id)
    if member.role is not Role.EDGE or member.answer in (Answer.REFUSED, Answer.LEFT_OUT):
        raise PermissionDeniedError(f"{push.node_id} is no edge of run {push.run_id} ({member.answer})")
    taken = _taken(transaction, push)
    if taken == push.sha256:
        return False
    if run.state.ended:
        raise RoundGivenUpError(f"run {push.run_id} has ended ({run.state})")
    _check_initial(run, push, taken) if push.initial else _check_update(transaction, run, push, taken)
    return True


def _taken(transaction: Transaction, push: Push) -> str | None:
    if push.initial:
        first = transaction.get(Round, run_id=push.run_id, version=0)
        return first.sha256 if first else None
    update = transaction.get(Update, run_id=push.run_id, version=push.version, edge_id=push.node_id)
    return update.sha256 if update else None


def _check_initial(run: Run, push: Push, taken: str | None) -> None:
    if taken is not None:
        raise MalformedError(
            f"header.sha256: the first adapter of {push.node_id} ({push.sha256[:12]}) differs from the one that "
            f"another edge pushed ({taken[:12]}); all edges need the same model files and versions of ELSA"
        )
    if push.version != 0 or push.config is None:
        raise MalformedError("header: an initial adapter has version 0 and a config")
    if run.state is not RunState.ENROLLING:
        raise StaleRoundError(f"run {run.run_id} is {run.state} and takes no first adapter")


def _check_update(transaction: Transaction, run: Run, push: Push, taken: str | None) -> None:
    check_number("header.rows", push.rows, 1, 2**53)
    if push.config is not None:
        raise MalformedError("header.config: only an initial adapter has one; leave it out")
    newest = f"the newest version of run {run.run_id} is {run.version}"
    if run.state is not RunState.TRAINING or run.version is None:
        raise StaleRoundError(f"run {run.run_id} is {run.state} and takes no updates yet")
    if push.version > run.version:
        raise MalformedError(f"header.version: {push.version}; {newest}")
    if push.version < run.version or run.version == run.rounds:
        raise StaleRoundError(f"the round on version {push.version} is over; {newest}; pull that")
    if taken is not None:
        raise StaleRoundError(
            f"another update of {push.node_id} on version {push.version} was taken ({taken[:12]}); "
            f"pull version {push.version + 1}"
        )
    if push.node_id not in working_edges(transaction.all(Member, run_id=run.run_id)):
        raise PermissionDeniedError(f"{push.node_id} has no clients in run {run.run_id}")


def _keep(transaction: Transaction, push: Push, now: float) -> None:
    run = transaction.run(push.run_id)
    if push.initial:
        first = Round(
            run_id=run.run_id,
            version=0,
            opened_unix_s=now,
            closed_unix_s=now,
            sha256=push.sha256,
            total_bytes=push.total_bytes,
            edge_ids=(push.node_id,),
        )
        transaction.put(first)
        transaction.put(replace(run, version=0, config=push.config))
        return
    fact = {"edge_id": push.node_id, "version": push.version, "rows": push.rows, "reports": push.reports}
    transaction.put(Update(run_id=run.run_id, sha256=push.sha256, **fact))  # type: ignore[arg-type]
    transaction.append(run.run_id, UpdateReceived(**fact), now)  # type: ignore[arg-type]


def _verified_layout(push: Push, data: bytes) -> Layout:
    digest = hashlib.sha256(data).hexdigest()
    if digest != push.sha256:
        raise ChecksumError(f"adapter of {push.node_id}: SHA-256 is {digest}, announced {push.sha256}; push it again")
    return _layout(data)


def _layout(data: bytes) -> Layout:
    return {name: tensor.shape for name, tensor in decode_adapter(data).items()}


def _check_layout(push: Push, layout: Layout, expected: Layout) -> None:
    for name in sorted({*layout, *expected}):
        if layout.get(name) != expected.get(name):
            raise MalformedError(
                f"tensor {name} of {push.node_id} is {layout.get(name, 'missing')}, "
                f"in version 0 {expected.get(name, 'missing')}; push the whole adapter"
            )
