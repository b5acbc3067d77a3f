"""Blobs and the records that refer to them: what is put while its record is written, and dropped once none is left.

Adapters are kept under their digest, so that one blob may be an edge's update, a global version and another run's
start at once. Whoever puts or drops one holds its digest meanwhile.
"""

import asyncio
import logging
from collections.abc import Iterable
from weakref import WeakValueDictionary

from services.cloud.blobs import Blobs
from services.cloud.store import Store

log = logging.getLogger(__name__)


class Keeper:
    """Puts and drops blobs. Lives on one event loop."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store, self._blobs = store, blobs
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def holding(self, digest: str) -> asyncio.Lock:
        """What to hold from before a blob is put until its record is written."""
        return self._locks.setdefault(digest, asyncio.Lock())

    async def put(self, data: bytes) -> None:
        """Keep a blob; call it while holding its digest."""
        await asyncio.to_thread(self._blobs.put, data)

    async def get(self, digest: str) -> bytes:
        """A blob. Raises NotFoundError, ChecksumError."""
        return await asyncio.to_thread(self._blobs.get, digest)

    async def drop(self, digests: Iterable[str]) -> None:
        """Delete those blobs that no record needs any more; one that cannot be deleted stays."""
        for digest in sorted(set(digests)):
            async with self.holding(digest):
                await self.drop_held(digest)

    async def drop_held(self, digest: str) -> None:
        """As `drop`, for one whose digest is held."""
        with self._store.transaction() as transaction:
            if transaction.needs(digest):
                return
        try:
            await asyncio.to_thread(self._blobs.delete, digest)
        except OSError as error:
            log.warning("blob %s is not needed any more but stays: %s", digest, error)
