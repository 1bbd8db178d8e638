"""The list of held originals, and the end of their grace period."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import func, select

from archiver.catalog.acts import let_go
from archiver.catalog.ledger import Recorder
from archiver.catalog.rows import Act, FileRow, HoldingRow, held_name
from archiver.catalog.store import PAGE
from archiver.catalog.tables import Audit, File, Held, Record
from archiver.errors import NotTracked

_HELD = select(Record.file_id, Held.record_id, Held.inode, Record.sha256, Held.size, Held.expires_at).join(
    Record, Record.id == Held.record_id
)


class HoldingArea(Recorder):
    """Originals that can still be given back."""

    def holding_for(self, file_id: int) -> HoldingRow | None:
        """The original that is held for a file; the newest, where it was written to and released again meanwhile."""
        query = _HELD.where(Record.file_id == file_id).order_by(Held.record_id.desc()).limit(1)
        with self._read() as connection:
            return next((holding_row(*row) for row in connection.execute(query)), None)

    def holding_of(self, row: FileRow) -> HoldingRow | None:
        """As `holding_for`, but only that of the record which the file has: no earlier version's."""
        held = self.holding_for(row.id)
        return held if held is not None and held.record_id == row.record_id else None

    def held_since(self, file_id: int) -> int | None:
        """When the original that is held for a file was last taken in, seconds since 1970; None where nothing tells."""
        taken_in = (int(Act.RELEASED), int(Act.ADOPTED))
        query = select(func.max(Audit.at)).where(Audit.file_id == file_id, Audit.act.in_(taken_in))
        with self._read() as connection:
            return connection.scalar(query)

    def holder_of(self, tier_id: int, inode: int, sha256: bytes) -> int | None:
        """The file for which a tier holds the original that had this inode and hash."""
        query = select(Record.file_id).join(Held, Held.record_id == Record.id).join(File, File.id == Record.file_id)
        query = query.where(Held.inode == inode, Record.sha256 == sha256)
        with self._read() as connection:
            return connection.scalar(query.where(File.tier_id == tier_id).limit(1))

    def holding_due(self, now: int) -> Iterator[HoldingRow]:
        """Held originals whose grace period is over at `now`, in the order of their records, page by page.

        Reads the whole list, which is short: an index would cost more than an hourly look.
        """
        query = _HELD.where(Held.expires_at <= now).order_by(Held.record_id).limit(PAGE)
        last = 0
        while True:
            with self._read() as connection:
                rows = [holding_row(*row) for row in connection.execute(query.where(Held.record_id > last))]
            yield from rows
            if len(rows) < PAGE:
                return
            last = rows[-1].record_id

    def mark_expired(self, held: HoldingRow) -> None:
        """Note that a held original was deleted; nothing to note where it is not listed any more. Raises NotTracked."""
        with self._change() as ledger:
            file = ledger.lock([held.file_id]).get(held.file_id)
            if file is None:
                raise NotTracked(path=f"file {held.file_id}")
            if let_go(ledger, file, held.record_id):
                ledger.tell(Act.EXPIRED, file._replace(record_id=held.record_id), detail=held.name)


def holding_row(file_id: int, record_id: int, inode: int, sha256: bytes, size: int, expires_at: int) -> HoldingRow:
    """A HoldingRow from the columns of a query; its name follows from inode and hash."""
    return HoldingRow(file_id, record_id, held_name(inode, sha256), size, expires_at)
