"""Adapters that come from edges and go to them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from elsa.errors import (
    CapacityError,
    DrainingError,
    NotFoundError,
    PermissionDeniedError,
    RoundGivenUpError,
)
from elsa.spec import RunSpec
from services.cloud.blobs import room
from services.cloud.changes import Changes
from services.cloud.engine import Engine
from services.cloud.fleet import MOST, check_number
from services.cloud.keeper import Keeper
from services.cloud.pushes import (
    Layout,
    Push,
    check_layout,
    check_new,
    check_size,
    check_steps,
    first_of,
    keep,
    layout_of,
    verified_layout,
)
from services.cloud.records import Answer, Member
from services.cloud.round_records import MOST_CLUSTERS, ClusterAdapter, Round
from services.cloud.runs import member_of
from services.cloud.store import Store

LEAST_LEFT_S = 1.0
"""Told of a round that is about to close."""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A global adapter."""

    version: int
    sha256: str
    data: bytes
    deadline_s: float | None = None
    """Of the round on this version, from its beginning; None where none is open."""
    left_s: float | None = None
    """Of that, or of the specification's where it is over and the round open still."""


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
        self._clock, self._begin_unix_s = clock, clock()
        self._layouts: dict[str, Layout] = {}

    def check(self, push: Push) -> None:
        """Refuse a push before its bytes come. Raises as `take`, and CapacityError for too large a one."""
        if push.total_bytes > self._max_adapter_bytes:
            raise CapacityError(
                f"header.total_bytes: {push.total_bytes}; at most {self._max_adapter_bytes} are taken here; "
                "lower lora.rank or raise ELSA_MAX_ADAPTER_BYTES"
            )
        check_number("header.total_bytes", push.total_bytes, 1)
        check_number("header.version", push.version, 0, MOST)
        check_number("header.cluster", push.cluster or 0, 0, MOST_CLUSTERS - 1)
        with self._store.transaction() as transaction:
            if check_new(transaction, push) and not push.initial:
                check_size(push, first_of(transaction, push.run_id))
                check_steps(transaction.run(push.run_id), push)
        if fault := self._keeper.room_fault(push.total_bytes):
            raise CapacityError(f"{fault}; free some, or move ELSA_STATE or ELSA_BLOBS_URL to a larger disk")

    async def take(self, push: Push, data: bytes) -> bool:
        """Keep an adapter; False if the same one had been taken before.

        What the edge delivered of the same version in an attempt that it broke off is void from then on.

        Raises:
            NotFoundError, PermissionDeniedError: an unknown run or node, a node that is no edge of the run.
            StaleRoundError, RoundGivenUpError: a round that is over, a run that is not at that point or has ended.
            ChecksumError: bytes that are not those of the digest.
            MalformedError: names, shapes or values that do not fit.
            FullDiskError: a disk that is full; nothing is kept then.
        """
        layout = await asyncio.to_thread(verified_layout, push, data)
        if not push.initial:
            check_layout(push, layout, await self._expected(push.run_id))
        async with self._keeper.holding(push.sha256):
            try:
                with room():
                    void = await self._put(push, data)
                if void is None:
                    return False
            except BaseException:
                await self._keeper.drop_held(push.sha256)
                raise
        self._changes.notify(("events", push.run_id), ("run", push.run_id))
        self._engine.kick(push.run_id)
        await self._keeper.drop(void)
        return True

    async def _put(self, push: Push, data: bytes) -> list[str] | None:
        """The digests of what is void by this push; None if it had been taken before."""
        with self._store.transaction() as transaction:
            if not check_new(transaction, push):
                return None
        await self._keeper.put(data)
        with self._store.transaction() as transaction:
            if not check_new(transaction, push):
                return None
            return keep(transaction, push, self._clock())

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
        data = await self._keeper.get(sha256)
        deadline_s, left_s = self._times(run_id, made.version)
        return Pulled(version=made.version, sha256=sha256, data=data, deadline_s=deadline_s, left_s=left_s)

    async def of_cluster(self, run_id: str, node_id: str, version: int, cluster: int) -> Pulled:
        """A cluster's adapter of one version.

        Raises NotFoundError where it has none, and as `pull` for who asks.
        """
        with self._store.transaction() as transaction:
            _check_takes_part(member_of(transaction, run_id, node_id))
            made = transaction.get(ClusterAdapter, run_id=run_id, version=version, cluster=cluster)
        if made is None:
            raise NotFoundError(f"cluster {cluster} of run {run_id} has no adapter of version {version}")
        return Pulled(version=version, sha256=made.sha256, data=await self._keeper.get(made.sha256))

    def _newest(self, run_id: str, node_id: str, version: int) -> Round | None:
        with self._store.transaction() as transaction:
            run, member = transaction.run(run_id), member_of(transaction, run_id, node_id)
            _check_takes_part(member)
            if run.version is not None and run.version >= version:
                return transaction.get(Round, run_id=run_id, version=run.version)
        if run.state.ended:
            raise RoundGivenUpError(f"run {run_id} has ended ({run.state}) without version {version}")
        return None

    def _times(self, run_id: str, version: int) -> tuple[float | None, float | None]:
        """The deadline of the round on a version and what is left of it; None where none is open."""
        with self._store.transaction() as transaction:
            opened, run = transaction.get(Round, run_id=run_id, version=version + 1), transaction.run(run_id)
        if opened is None or opened.sha256 is not None:
            return None, None
        left_s = opened.deadline_s - self._clock() + max(opened.opened_unix_s, self._begin_unix_s)
        if left_s <= 0:  # too few have delivered for it to close
            left_s += RunSpec.from_yaml(run.spec).rounds.deadline_s - opened.deadline_s
        return opened.deadline_s, max(left_s, LEAST_LEFT_S)

    async def _expected(self, run_id: str) -> Layout:
        """Names and shapes of a run's version 0."""
        if run_id in self._layouts:
            return self._layouts[run_id]
        with self._store.transaction() as transaction:
            first, still = first_of(transaction, run_id), {run.run_id for run in transaction.open_runs()}
        layout = await asyncio.to_thread(layout_of, await self._keeper.get(first.sha256 or ""))
        self._layouts = {known: kept for known, kept in self._layouts.items() if known in still}
        self._layouts[run_id] = layout
        return layout


def _check_takes_part(member: Member) -> None:
    if member.answer in (Answer.REFUSED, Answer.LEFT_OUT):
        raise PermissionDeniedError(f"{member.node_id} has no part in run {member.run_id}: {member.answer}")
