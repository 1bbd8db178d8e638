"""Reading a SQLite catalog without SQLAlchemy, whose import takes longer than `archiver status` may.

The same questions and the same answers as `Catalog`, for the few that a status needs; a test holds the two together.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from archiver.catalog.rows import (
    SCHEMA,
    Act,
    AuditRow,
    FileRow,
    HoldingRow,
    RecordRow,
    State,
    StateCount,
    TierRow,
    TierSummary,
    held_name,
)
from archiver.errors import CatalogUnavailable, NotTracked

if TYPE_CHECKING:
    from archiver.catalog.catalog import Catalog

_URL = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>/[^?]*)")
_TIER = (
    "SELECT id, name, kind, root, identity, reachable, first_scan_done_at, last_scan_at, held_files, held_bytes,"
    " behind_bytes"
    " FROM tier ORDER BY name"
)
_UNSIGNED = 1 << 64


def open_reader(url: str) -> QuickCatalog | Catalog:
    """Open a catalog for a few questions: a SQLite one the quick way, any other as a whole.

    Both are context managers. Raises CatalogUnavailable, CatalogOutdated, CatalogTooNew.
    """
    if (sqlite := _URL.fullmatch(url.partition("?")[0])) is not None:
        quick = QuickCatalog(sqlite["path"])
        if quick.revision() == SCHEMA:
            return quick
        quick.dispose()
    from archiver.catalog.catalog import Catalog

    return Catalog.open(url)  # which also names what is wrong with a schema of another revision


class QuickCatalog:
    """A SQLite catalog, open for reading only. See `Catalog` for what each method answers."""

    def __init__(self, path: str) -> None:
        self._url = f"sqlite:///{path}"
        if not os.path.exists(path):  # noqa: PTH110 - the path may hold bytes that are not UTF-8
            raise CatalogUnavailable(url=self._url, reason="there is no such file")
        with self._named():
            uri = f"file:{quote(os.fsencode(path))}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=30.0, isolation_level=None)

    def revision(self) -> str:
        """The schema's revision, "" where there is none."""
        if not self._ask("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"):
            return ""
        rows = self._ask("SELECT version_num FROM alembic_version")
        return str(rows[0][0]) if rows else ""

    def tiers(self) -> list[TierRow]:
        """Every tier, by name."""
        return [_tier(row) for row in self._ask(_TIER)]

    def summary(self) -> list[TierSummary]:
        """Every tier with its counters, by name."""
        with self._snapshot():
            tiers = self._ask(_TIER)
            counts = {row[:2]: row[2:] for row in self._ask("SELECT tier_id, state, files, bytes FROM counter")}
        return [
            TierSummary(
                _tier(row), tuple(StateCount(state, *counts.get((row[0], state), (0, 0))) for state in State), *row[8:]
            )
            for row in tiers
        ]

    def find(self, tier_id: int, path: str) -> FileRow | None:
        """The file at a path of a tier."""
        folder, _, name = path.rpartition("/")
        rows = self._ask(
            "SELECT file.id, file.tier_id, directory.path, name, state, size, mtime_ns, inode, accessed_at, record_id,"
            " refusal"
            " FROM file JOIN directory ON directory.id = file.directory_id"
            " WHERE directory.tier_id = ? AND directory.path = ? AND file.name = ?",
            (tier_id, os.fsencode(folder), os.fsencode(name)),
        )
        for file_id, tier, folder, name, state, size, mtime_ns, inode, *rest in rows:
            place = (os.fsdecode(folder), os.fsdecode(name))
            return FileRow(file_id, tier, *place, State(state), size, mtime_ns, inode % _UNSIGNED, *rest)
        return None

    def record(self, record_id: int) -> RecordRow:
        """A record by its number. Raises NotTracked."""
        rows = self._ask(
            "SELECT record.id, file_id, payload, sha256, fingerprint, scheme, coalesce(rule.name, ''), created_at,"
            " format, width, height, semantic, label_bce, colour"
            " FROM record JOIN profile ON profile.id = record.profile_id LEFT JOIN rule ON rule.id = record.rule_id"
            " WHERE record.id = ?",
            (record_id,),
        )
        if not rows:
            raise NotTracked(path=f"record {record_id}")
        return RecordRow(*rows[0][:11], *(None if value is None else value / 1000 for value in rows[0][11:]))

    def holding_for(self, file_id: int) -> HoldingRow | None:
        """The original that is held for a file."""
        rows = self._ask(
            "SELECT record.file_id, holding.record_id, inode, sha256, size, expires_at"
            " FROM holding JOIN record ON record.id = holding.record_id"
            " WHERE record.file_id = ? ORDER BY holding.record_id DESC LIMIT 1",
            (file_id,),
        )
        for owner, held_record, inode, sha256, size, expires_at in rows:
            return HoldingRow(owner, held_record, held_name(inode % _UNSIGNED, sha256), size, expires_at)
        return None

    def is_pinned(self, tier_id: int, path: str) -> bool:
        """Whether a path is pinned, by itself or by a directory above it."""
        pins = self._ask("SELECT path, subtree FROM pin WHERE tier_id = ?", (tier_id,))
        exact = os.fsencode(path)
        return any(pin == exact or (subtree and (not pin or exact.startswith(pin + b"/"))) for pin, subtree in pins)

    def audit_rows(self, *, tier_id: int, path: str, limit: int) -> list[AuditRow]:
        """The newest acts on one path of a tier."""
        folder, _, name = path.rpartition("/")
        exact = os.fsencode(path)
        now = (
            "SELECT file.id FROM file JOIN directory ON directory.id = file.directory_id"
            " WHERE directory.tier_id = ? AND directory.path = ? AND file.name = ?"
        )
        then = "SELECT file_id FROM audit WHERE path = ? AND tier_id = ? AND file_id IS NOT NULL"
        rows = self._ask(
            "SELECT audit.id, at, act, tier_id, file_id, record_id, coalesce(rule.name, ''), coalesce(detail, '')"
            " FROM audit LEFT JOIN rule ON rule.id = audit.rule_id"
            f" WHERE tier_id = ? AND (file_id IN ({now} UNION {then}) OR path = ?) ORDER BY audit.id DESC LIMIT ?",
            (tier_id, tier_id, os.fsencode(folder), os.fsencode(name), exact, tier_id, exact, limit),
        )
        return [
            AuditRow(number, at, Act(act), tier, file, record, rule, path, detail)
            for number, at, act, tier, file, record, rule, detail in rows
        ]

    def setting(self, key: str) -> str | None:
        """A small fact that an earlier process left."""
        rows = self._ask("SELECT value FROM setting WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def dispose(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispose()

    def _ask(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._named():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Several questions about one moment."""
        self._ask("BEGIN")
        try:
            yield
        finally:
            self._ask("ROLLBACK")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise CatalogUnavailable(url=self._url, reason=str(error)) from error


def _tier(row: tuple[Any, ...]) -> TierRow:
    tier_id, name, kind, root, identity, reachable, first_scan, last_scan = row[:8]
    return TierRow(tier_id, name, kind, os.fsdecode(root), identity, bool(reachable), first_scan, last_scan)
