"""The audit: what was done, when, by which rule, to what. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import aliased

from archiver.catalog.ledger import Recorder
from archiver.catalog.rows import Act, AuditRow
from archiver.catalog.store import PAGE
from archiver.catalog.tables import Audit, Directory, File, Rule

# A forgotten file's path is in the row that tells of it; there is at most one, and few files are forgotten.
_farewell = aliased(Audit)
_ROWS = (
    select(
        Audit.id,
        Audit.at,
        Audit.act,
        Audit.tier_id,
        Audit.file_id,
        Audit.record_id,
        func.coalesce(Rule.name, ""),
        Audit.path,
        Directory.path,
        File.name,
        _farewell.path,
        Audit.detail,
    )
    .outerjoin(Rule, Rule.id == Audit.rule_id)
    .outerjoin(File, File.id == Audit.file_id)
    .outerjoin(Directory, Directory.id == File.directory_id)
    .outerjoin(
        _farewell,
        and_(File.id.is_(None), _farewell.file_id == Audit.file_id, _farewell.act == int(Act.FORGOTTEN)),
    )
)


class AuditLog(Recorder):
    """Reading the audit, and adding what only the callers know of."""

    def last_act_at(self) -> int:
        """The latest time among the last rows, seconds since 1970; 0 before the first one."""
        last = select(Audit.at).order_by(Audit.id.desc()).limit(PAGE).subquery()
        with self._read() as connection:
            return connection.scalar(select(func.max(last.c.at))) or 0

    def audit(
        self,
        act: Act,
        *,
        tier_id: int | None = None,
        file_id: int | None = None,
        path: str | None = None,
        rule: str = "",
        detail: str = "",
    ) -> None:
        """Write an act down that changed no state: a failure, the end of a verification."""
        with self._change() as ledger:
            file = ledger.lock([file_id]).get(file_id) if file_id is not None else None
            ledger.tell(act, file, tier_id=tier_id, path=path, rule=rule, detail=detail)

    def audit_rows(
        self, *, tier_id: int | None = None, path: str | None = None, since: int | None = None, limit: int | None = None
    ) -> Iterator[AuditRow]:
        """Acts, newest first, page by page: all, those of a tier, or those on one path of a tier, from the time `since`
        on.

        Raises ValueError for a path without its tier.
        """
        conditions: list[ColumnElement[bool]] = []
        if path is not None:
            if tier_id is None:
                raise ValueError("a path is one of a tier")
            conditions.append(self._on_path(tier_id, path))
        if tier_id is not None:
            conditions.append(Audit.tier_id == tier_id)
        if since is not None:
            conditions.append(Audit.at >= since)
        query = _ROWS.where(*conditions).order_by(Audit.id.desc())
        left, last = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            with self._read() as connection:
                page = query if last is None else query.where(Audit.id < last)
                found: Iterable[Any] = connection.execute(page.limit(size))
                rows = [_audit_row(*row) for row in found]
            yield from rows
            if len(rows) < PAGE:
                return
            last = rows[-1].id
            left = None if left is None else left - len(rows)

    def _on_path(self, tier_id: int, path: str) -> ColumnElement[bool]:
        """Rows of the file at a path now, of files that were forgotten there, and those that name the path itself."""
        folder, _, name = path.rpartition("/")
        now = select(File.id).join(Directory, Directory.id == File.directory_id)
        now = now.where(Directory.tier_id == tier_id, Directory.path == folder, File.name == name)
        then = select(Audit.file_id).where(Audit.path == path, Audit.tier_id == tier_id, Audit.file_id.is_not(None))
        with self._read() as connection:
            file_ids = [*connection.scalars(now), *connection.scalars(then)]
        return or_(Audit.file_id.in_(file_ids), Audit.path == path)


def _audit_row(
    audit_id: int,
    at: int,
    act: int,
    tier_id: int | None,
    file_id: int | None,
    record_id: int | None,
    rule: str,
    own_path: str | None,
    folder: str | None,
    name: str | None,
    last_path: str | None,
    detail: str | None,
) -> AuditRow:
    path = own_path if own_path is not None else last_path
    if name is not None:
        path = f"{folder}/{name}" if folder else name
    return AuditRow(audit_id, at, Act(act), tier_id, file_id, record_id, rule, path, detail or "")
