"""Blobs and the records that refer to them: what is put while its record is written, and dropped once none is left.

Adapters are kept under their digest, so that one blob may be an edge's update, a global version and another run's
start at once. Whoever puts or drops one holds its digest meanwhile.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from weakref import WeakValueDictionary

from elsa.errors import InputError
from services.cloud.blobs import Blobs
from services.cloud.store import Store

log = logging.getLogger(__name__)

SPARE_BYTES = 16 * 1024 * 1024
"""Of the disk, for the database's own."""
PREFIXES = [f"{number:02x}" for number in range(256)]
MOST_TRIED = 1000
"""Blobs that one look tries to remove; the next one goes on after them."""


class Keeper:
    """Puts, drops and sweeps blobs. Lives on one event loop."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store, self._blobs = store, blobs
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._last_tried = ""

    def holding(self, digest: str) -> asyncio.Lock:
        """What to hold from before a blob is put until its record is written."""
        return self._locks.setdefault(digest, asyncio.Lock())

    async def put(self, data: bytes) -> None:
        """Keep a blob; call it while holding its digest. Raises as `Blobs.put`."""
        await asyncio.to_thread(self._blobs.put, data)

    def room_fault(self, total_bytes: int) -> str:
        """Why an adapter of so many bytes, and what is made of it, cannot be kept; empty if it can."""
        needed, free = 2 * total_bytes + SPARE_BYTES, self._blobs.free_bytes()
        if free is None or free >= needed:
            return ""
        return f"the cloud's disk has {free} bytes free, and {needed} are needed for an adapter and the next version"

    async def get(self, digest: str) -> bytes:
        """A blob. Raises as `Blobs.get`."""
        return await asyncio.to_thread(self._blobs.get, digest)

    async def drop(self, digests: Iterable[str]) -> None:
        """Delete those blobs that no record needs any more; one that cannot be deleted stays."""
        for digest in sorted(set(digests)):
            async with self.holding(digest):
                await self.drop_held(digest)

    async def sweep(self, grace_s: float, now: float) -> int:
        """Delete what no record refers to and nobody has written for `grace_s` seconds; how many went.

        A process left it that was killed between a blob and its record, or a run that failed with its updates. At
        most `MOST_TRIED` at a time, in turn: those that cannot be deleted keep no others from it.
        """
        swept = await asyncio.to_thread(self._blobs.sweep_aside, grace_s, now)
        with self._store.transaction() as transaction:
            needed = transaction.needed()
        tried = 0
        async with aclosing(self._in_turn()) as turns:
            async for digest in turns:
                if tried >= MOST_TRIED:
                    break
                if digest not in needed and await asyncio.to_thread(self._blobs.age_s, digest, now) > grace_s:
                    tried += 1
                    self._last_tried = digest
                    async with self.holding(digest):
                        swept += await self.drop_held(digest)
        return swept

    async def _in_turn(self) -> AsyncGenerator[str, None]:
        """The digests of all blobs, once round, from after the one that was tried last."""
        last = self._last_tried
        begin = PREFIXES.index(last[:2] or PREFIXES[0])
        for place, prefix in enumerate([*PREFIXES[begin:], *PREFIXES[: begin + 1]]):
            for digest in await asyncio.to_thread(self._blobs.names, prefix):
                if 0 < place < len(PREFIXES) or (digest > last) == (place == 0):
                    yield digest

    async def claim(self) -> None:
        """Make the blobs this database's own, which alone sweeps them.

        Raises InputError if they are another's, or are not those that this one has put: what is lost then is not what
        records say it is.
        """
        with self._store.transaction() as transaction:
            new, versions = not transaction.needed(), transaction.newest_versions()
        await asyncio.to_thread(self._blobs.claim, self._store.installation_id, new=new)
        for version in versions:
            digest = version.sha256 or ""
            if not await asyncio.to_thread(self._blobs.has, digest):
                raise InputError(
                    f"the blob of version {version.version} of run {version.run_id}, {digest}, is gone; restore "
                    "it from a backup, or set ELSA_BLOBS_URL to where it is"
                )

    async def forget_lost(self) -> int:
        """Forget updates whose blobs are gone, as after a backup was put back: their edges may deliver again.

        Returns how many there were.
        """
        with self._store.transaction() as transaction:
            waiting = transaction.waiting()
        lost = [update for update in waiting if not await asyncio.to_thread(self._blobs.has, update.sha256)]
        with self._store.transaction() as transaction:
            for update in lost:
                log.warning(
                    "run %s: the update of %s on version %d has lost its blob and is forgotten",
                    *(update.run_id, update.edge_id, update.version),
                )
                transaction.delete(update)
        return len(lost)

    async def drop_held(self, digest: str) -> bool:
        """As `drop`, for one whose digest is held; whether it went."""
        with self._store.transaction() as transaction:
            if transaction.needs(digest):
                return False
        try:
            await asyncio.to_thread(self._blobs.delete, digest)
        except OSError as error:
            log.warning("blob %s is not needed any more but stays: %s", digest, error)
            return False
        return True
