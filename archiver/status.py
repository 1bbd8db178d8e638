"""What `archiver status` tells, read without SQLAlchemy and without a model library: a status must answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from archiver.catalog.quick import open_reader
from archiver.catalog.rows import AuditRow, FileRow, HoldingRow, RecordRow, State, StateCount, TierSummary
from archiver.codec.fidelity import FidelityReport
from archiver.codec.record import Record
from archiver.config import Settings
from archiver.errors import ArchiverError, NotInAnyTier, NotTracked
from archiver.tiers.opening import open_tier
from archiver.tiers.protocol import Tier, Where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archiver.catalog.catalog import Catalog
    from archiver.catalog.quick import QuickCatalog
    from archiver.desk.report import Report

_BLOCK = 4096
_HISTORY = 20  # acts told of one file; `archiver audit FILE` has all


@dataclass(frozen=True, slots=True)
class TierStatus:
    """A tier as the catalog's counters have it.

    `released_bytes`: of its released files, as long as they show themselves to be, which on disk is as long as they
    were. `given_back`: bytes that these no longer take; None of a bucket, whose placeholders are shorter than what they
    stand for.
    """

    summary: TierSummary
    first_scan_done_at: datetime | None
    last_scan_at: datetime | None
    released_bytes: int
    given_back: int | None


@dataclass(frozen=True, slots=True)
class FileStatus:
    """Everything the catalog knows of one file."""

    path: Where
    tier: str
    file: FileRow
    record: RecordRow | None
    parts: tuple[tuple[str, int], ...]
    fidelity: FidelityReport | None
    held: HoldingRow | None
    pinned: bool
    history: tuple[AuditRow, ...]


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """How many files below a folder are in which state, and the bytes they show."""

    path: Where
    tier: str
    states: tuple[tuple[State, int, int], ...]


def tiers(settings: Settings) -> tuple[TierStatus, ...]:
    """Every tier's counters; no row is counted. Raises CatalogUnavailable, CatalogOutdated."""
    with open_reader(settings.catalog_url) as catalog:
        return tuple(_tier(summary) for summary in catalog.summary())


def paths(settings: Settings, wanted: Sequence[Where]) -> Iterator[FileStatus | FolderStatus]:
    """Files and folders, one by one. Raises NotInAnyTier, NotTracked."""
    with open_reader(settings.catalog_url) as catalog:
        ids = {row.name: row.id for row in catalog.tiers()}
        for path in wanted:
            tier, relative = locate(settings, path)
            if tier.name not in ids:
                raise NotTracked(path=path)
            row = catalog.find(ids[tier.name], relative)
            if row is not None:
                yield _file(catalog, tier, row)
            else:
                yield _folder(settings, tier, ids[tier.name], relative, path)


def recalls(settings: Settings) -> Report:
    """Who recalls what, as the running daemon tells it. Raises DeskUnreachable."""
    from archiver.desk.client import report

    return report(settings.recall.desk_socket)


def locate(settings: Settings, path: Where) -> tuple[Tier, str]:
    """The tier a path lies in and the path within it; the last component may be gone or a link. Raises NotInAnyTier."""
    for tier in map(open_tier, settings.tier):
        if (relative := tier.relative(path)) is not None:
            return tier, relative
    raise NotInAnyTier(path=path)


def _tier(summary: TierSummary) -> TierStatus:
    released = summary.of(State.RELEASED)
    return TierStatus(
        summary=summary,
        first_scan_done_at=_moment(summary.tier.first_scan_done_at),
        last_scan_at=_moment(summary.tier.last_scan_at),
        released_bytes=released.bytes,
        given_back=None if summary.tier.kind == "s3" else _given_back(summary, released),
    )


def _given_back(summary: TierSummary, released: StateCount) -> int:
    return max(0, released.bytes - released.files * _BLOCK - summary.behind_bytes - summary.held_bytes)


def _file(catalog: QuickCatalog | Catalog, tier: Tier, row: FileRow) -> FileStatus:
    record = catalog.record(row.record_id) if row.record_id is not None else None
    return FileStatus(
        path=tier.where(row.path),
        tier=tier.name,
        file=row,
        record=record,
        parts=_parts(record) if record is not None else (),
        fidelity=_fidelity(record),
        held=catalog.holding_for(row.id),
        pinned=catalog.is_pinned(row.tier_id, row.path),
        history=tuple(catalog.audit_rows(tier_id=row.tier_id, path=row.path, limit=_HISTORY)),
    )


def _parts(row: RecordRow) -> tuple[tuple[str, int], ...]:
    try:
        record = Record.from_bytes(row.payload)
    except ArchiverError as error:
        return ((error.message, len(row.payload)),)
    parts = [(section.kind.name.lower().replace("_", " "), len(section.payload)) for section in record.sections]
    return (*parts, ("header", len(row.payload) - sum(size for _, size in parts)))


def _fidelity(record: RecordRow | None) -> FidelityReport | None:
    if record is None or record.semantic is None or record.colour is None:
        return None
    return FidelityReport(semantic=record.semantic, label_bce=record.label_bce, colour=record.colour)


def _folder(settings: Settings, tier: Tier, tier_id: int, relative: str, path: Where) -> FolderStatus:
    """Counted row by row: only the tiers themselves have counters. Raises NotTracked."""
    from archiver.catalog.catalog import Catalog

    files, sizes = dict.fromkeys(State, 0), dict.fromkeys(State, 0)
    with Catalog.open(settings.catalog_url) as catalog:
        if relative and catalog.directory(tier_id, relative) is None:
            raise NotTracked(path=path)
        for row in catalog.stream_files(tier_id, under=relative):
            files[row.state] += 1
            sizes[row.state] += row.size
    states = tuple((state, files[state], sizes[state]) for state in State if files[state])
    return FolderStatus(tier.where(relative), tier.name, states)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
