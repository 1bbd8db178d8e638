"""Batches of changes on their way from the walk to the catalog."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from archiver.catalog import Catalog
from archiver.catalog.rows import Applied, DirectoryChange
from archiver.tiers.protocol import Tier

_BATCH = 10000  # files a transaction

Access = tuple[int, str, int]  # tier, path, seconds since 1970


class Batches:
    """Collects changes and applies them, a batch at a time, while the walk goes on reading the disk.

    A context manager: when its body ends well the last batch is written, too; when it raises, what was collected since
    the last one is dropped. Raises TierUnreachable instead of writing when the tier has vanished: what is missing on a
    disk that is gone is not gone.
    """

    def __init__(self, catalog: Catalog, tier: Tier, tier_id: int) -> None:
        self._catalog, self._tier, self._tier_id = catalog, tier, tier_id
        self._changes: list[DirectoryChange] = []
        self._accesses: list[Access] = []
        self._files = 0
        # One thread, and one batch waiting for it at most: memory stays flat, and batches keep their order.
        self._thread = ThreadPoolExecutor(1, "archiver-scan")
        self._writing: Future[Applied] | None = None
        self.applied = Applied()

    def add(self, change: DirectoryChange, accesses: Sequence[Access] = ()) -> None:
        """Take a change; writes a batch when there is enough of it. Raises what writing the batch before it raised."""
        self._changes.append(change)
        self._accesses += accesses
        self._files += 1 + len(change.new) + len(change.changed) + len(change.missing) + len(accesses)
        if self._files >= _BATCH:
            self._write()

    def _write(self) -> None:
        self._wait()
        self._tier.check()
        self._writing = self._thread.submit(self._apply, self._changes, self._accesses)
        self._changes, self._accesses, self._files = [], [], 0

    def _apply(self, changes: list[DirectoryChange], accesses: list[Access]) -> Applied:
        applied = self._catalog.apply_changes(self._tier_id, changes) if changes else Applied()
        if accesses:
            self._catalog.note_access(accesses)
        return applied

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.applied = self.applied.plus(writing.result())

    def __enter__(self) -> Self:
        # Hundreds of thousands of tuples live until their batch is written. For every few ten thousand of them the
        # collector would go through all that the program has loaded: a tenth of a first scan (benchmarks/scan.py).
        gc.freeze()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._thread:  # waits for the batch under way
                if error is None:
                    self._write()
                    self._wait()
        finally:
            gc.unfreeze()
