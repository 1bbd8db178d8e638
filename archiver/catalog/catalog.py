"""The catalog: one object for everything the other parts ask of the database.

Each base class is one concern, in a module of its own; all share the engine and the transactions of
archiver.catalog.store.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from archiver.catalog.acts import Acts
from archiver.catalog.audit import AuditLog
from archiver.catalog.counters import Counters
from archiver.catalog.holding import HoldingArea
from archiver.catalog.lock import InstanceLock
from archiver.catalog.lookup import Lookup
from archiver.catalog.pins import Pins
from archiver.catalog.scan import ScanWriter
from archiver.catalog.schema import require_current, upgrade
from archiver.catalog.store import Clock, open_engine
from archiver.catalog.tiers import Tiers


class Catalog(Tiers, ScanWriter, Lookup, Acts, HoldingArea, Pins, AuditLog, Counters, InstanceLock):
    """An open catalog; safe to use from several threads. Use `Catalog.open`, as a context manager or with `dispose`.

    Every method is one transaction: when it returns, what it did is durable; when it raises, nothing was done. All of
    them raise CatalogUnavailable when the database cannot be read, is locked for too long, or is damaged.
    """

    @classmethod
    def open(cls, url: str, *, create: bool = False, busy_seconds: float = 30.0, clock: Clock = time.time) -> Self:
        """Open the catalog at a sqlite:// or postgresql:// URL; with `create` make it, or upgrade it, first.

        Raises CatalogUnavailable, CatalogOutdated, CatalogTooNew.
        """
        if create:
            upgrade(url)
        engine = open_engine(url, busy_seconds=busy_seconds)
        try:
            require_current(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, clock)

    def dispose(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispose()
