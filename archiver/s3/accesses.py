"""Which objects were read through the gateway, on their way into the catalog: a file in use is not cold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from archiver.catalog import Catalog
from archiver.errors import ArchiverError

_LOG = logging.getLogger("archiver.s3.gateway")
_SECONDS = 5.0  # between two writes
_MOST = 100_000  # accesses kept while the catalog cannot be written to


class Accesses:
    """Accesses of one event loop, noted in the catalog every few seconds; without a catalog nothing is noted."""

    def __init__(self, catalog: Catalog | None) -> None:
        self._catalog = catalog
        self._seen: dict[tuple[str, str], int] = {}

    def note(self, tier: str, path: str) -> None:
        """Somebody read a file of a tier now."""
        if self._catalog is not None and len(self._seen) < _MOST:
            self._seen[tier, path] = int(time.time())

    @asynccontextmanager
    async def noted(self, pool: Executor) -> AsyncIterator[None]:
        """Write to the catalog while the body runs, and all that is left behind it."""
        over = asyncio.Event()
        writing = asyncio.create_task(self._write_until(over, pool))
        try:
            yield
        finally:
            over.set()
            await writing

    async def _write_until(self, over: asyncio.Event, pool: Executor) -> None:
        while not over.is_set():
            try:
                async with asyncio.timeout(_SECONDS):
                    await over.wait()
            except TimeoutError:
                pass  # it is time to write
            seen, self._seen = self._seen, {}
            if seen and not await asyncio.get_running_loop().run_in_executor(pool, self._write, seen):
                self._seen = seen | self._seen

    def _write(self, seen: dict[tuple[str, str], int]) -> bool:
        assert self._catalog is not None  # else nothing is noted
        try:
            ids = {row.name: row.id for row in self._catalog.tiers()}
            known = ((ids[tier], path, at) for (tier, path), at in seen.items() if tier in ids)
            self._catalog.note_access(known)
        except ArchiverError as error:
            _LOG.warning("accesses are noted later: %s", error.message)
            return False
        return True
