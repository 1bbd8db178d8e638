"""The list of held originals, and the end of their grace period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import select, tuple_

from archiver.catalog.acts import let_go
from archiver.catalog.ledger import Recorder
from archiver.catalog.rows import Act, HoldingRow
from archiver.catalog.store import PAGE
from archiver.catalog.tables import Held, Record
from archiver.errors import NotTracked

_HELD = select(Record.file_id, Held.record_id, Held.name, Held.size, Held.expires_at).join(
    Record, Record.id == Held.record_id
)


class HoldingArea(Recorder):
    """Originals that can still be given back."""

    def holding_for(self, file_id: int) -> HoldingRow | None:
        """The original that is held for a file; the newest, where it was written to and released again meanwhile."""
        with self._read() as connection:
            query = _HELD.where(Record.file_id == file_id).order_by(Held.record_id.desc()).limit(1)
            rows: Iterable[Any] = connection.execute(query)
            return next((HoldingRow(*row) for row in rows), None)

    def holding_due(self, now: int) -> Iterator[HoldingRow]:
        """Held originals whose grace period is over at `now`, longest over first, page by page."""
        query = _HELD.where(Held.expires_at <= now).order_by(Held.expires_at, Held.record_id)
        last: tuple[int, int] | None = None
        while True:
            page = query if last is None else query.where(tuple_(Held.expires_at, Held.record_id) > last)
            with self._read() as connection:
                found: Iterable[Any] = connection.execute(page.limit(PAGE))
                rows = [HoldingRow(*row) for row in found]
            yield from rows
            if len(rows) < PAGE:
                return
            last = (rows[-1].expires_at, rows[-1].record_id)

    def mark_expired(self, held: HoldingRow) -> None:
        """Note that a held original was deleted; nothing to note where it is not listed any more. Raises NotTracked."""
        with self._change() as ledger:
            file = ledger.lock([held.file_id]).get(held.file_id)
            if file is None:
                raise NotTracked(path=f"file {held.file_id}")
            if let_go(ledger, file, held.record_id):
                ledger.tell(Act.EXPIRED, file._replace(record_id=held.record_id), detail=held.name)
