"""The parts that an act needs, opened together: settings, catalog, tiers, vault and (when first used) the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from archiver.access.client import RecallClient
from archiver.catalog import Catalog
from archiver.catalog.rows import FileRow, State
from archiver.config import Settings
from archiver.errors import NotInAnyTier, NotTracked, RecallUnreachable, TierNotScanned
from archiver.formats import Limits
from archiver.lifecycle.keeper import Keeper
from archiver.models.vault import Vault
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier, Where

if TYPE_CHECKING:
    from archiver.decoder.engine import Engine


@dataclass(frozen=True, slots=True)
class Located:
    """Where a path of the user lies: its tier, that tier's row in the catalog, and the path within it."""

    tier: Tier
    tier_id: int
    relative: str


@dataclass
class Site:
    """Everything one process works with. Use `archiver.lifecycle.opening.open_site`."""

    settings: Settings
    catalog: Catalog
    vault: Vault
    tiers: dict[str, Tier]
    tier_ids: dict[str, int]
    limits: Limits
    make_keeper: Callable[[Site, Tier], Keeper]
    recall_client: RecallClient | None = None
    _engine: Engine | None = None
    _keepers: dict[str, Keeper] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def engine(self) -> Engine:
        """The model; loaded when first asked for. Raises ModelsNotInstalled, ProfileUnknown, WeightsDamaged."""
        with self._lock:
            if self._engine is None:
                from archiver.decoder.opening import open_engine

                self._engine = open_engine(self.settings)
            return self._engine

    @cached_property
    def last_act_at(self) -> int:
        """When the last act was that the catalog tells of, seconds since 1970, as it was when first asked for."""
        return self.catalog.last_act_at()

    def grace_ends(self) -> int:
        """When the grace period ends of an original that is put away now, seconds since 1970.

        A NAS without a battery for its clock may start in the past, and be told the time later: the grace period would
        be over at once. No release is before an act that was.
        """
        return int(max(time.time(), self.last_act_at) + self.settings.release.grace.total_seconds())

    def close(self) -> None:
        """End the engine, where one was opened."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    @property
    def notices_readers(self) -> bool:
        """Whether `archiver-recall` is in use here: readers of placeholders are noticed then, or should be."""
        client = self.recall_client
        return client is not None and (client.connected or client.path.exists())

    def require_noticing(self) -> None:
        """Raises RecallUnreachable where `archiver-recall` is in use and does not answer: see `forget`."""
        if self.notices_readers and self.recall_client is not None and not self.recall_client.connected:
            raise RecallUnreachable(path=self.recall_client.path)

    def forget(self, fd: int) -> None:
        """Have readers of an open file noticed again, which becomes a placeholder in the inode it has.

        Resident files are silenced, so that reading them costs nothing. Raises RecallUnreachable, OSError.
        """
        if self.notices_readers and self.recall_client is not None:
            self.recall_client.forget(fd)

    @property
    def local_tiers(self) -> tuple[LocalTier, ...]:
        """Those that are directory trees: only they have readers to notice and folders to watch."""
        return tuple(tier for tier in self.tiers.values() if isinstance(tier, LocalTier))

    def keeper(self, tier: Tier) -> Keeper:
        """Who does the acts on a tier's files. Raises ObjectsNotInstalled for a bucket without boto3."""
        with self._lock:
            if tier.name not in self._keepers:
                self._keepers[tier.name] = self.make_keeper(self, tier)
            return self._keepers[tier.name]

    def locate(self, where: Where) -> Located:
        """The tier a file lies in; the file itself may be gone. Raises NotInAnyTier, TierNotScanned."""
        for tier in self.tiers.values():
            if (relative := tier.relative(where)) is not None:
                if tier.name not in self.tier_ids:  # the configuration names it, and who only looks makes no row for it
                    raise TierNotScanned(tier=tier.name)
                return Located(tier, self.tier_ids[tier.name], relative)
        raise NotInAnyTier(path=where)

    def concerned(self, tiers: Sequence[str] | None, paths: Sequence[Where] | None) -> list[Tier]:
        """The tiers that `paths` lie in, each once, else those named, else all. Raises NotInAnyTier, TierNotScanned."""
        if paths is not None:
            return list({tier.name: tier for tier in (self.locate(path).tier for path in paths)}.values())
        return [tier for name, tier in self.tiers.items() if tiers is None or name in tiers]

    def rows(self, path: Where, states: Sequence[State]) -> Iterator[tuple[Tier, FileRow]]:
        """The tracked file at `path`, or every tracked file below it in one of `states`.

        Raises NotInAnyTier, NotTracked (no such file, and no folder of that name was ever scanned).
        """
        located = self.locate(path)
        row = self.catalog.find(located.tier_id, located.relative)
        if row is not None:
            yield located.tier, row
            return
        if located.relative and self.catalog.directory(located.tier_id, located.relative) is None:
            raise NotTracked(path=path)
        for row in self.catalog.stream_files(located.tier_id, states, under=located.relative):
            yield located.tier, row

    def tier_of(self, row: FileRow) -> Tier | None:
        """The tier of a row; None for one that the configuration names no more."""
        return next((tier for name, tier in self.tiers.items() if self.tier_ids.get(name) == row.tier_id), None)
