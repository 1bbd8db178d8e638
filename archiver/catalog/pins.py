"""Pins: files and directories that a user wants to keep as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sqlalchemy import bindparam, delete, or_, select, text

from archiver.catalog.ledger import Recorder
from archiver.catalog.rows import Act, Pin
from archiver.catalog.tables import Pinned

_PIN = text(
    "INSERT INTO pin (tier_id, path, subtree) VALUES (:tier, :path, :subtree)"
    " ON CONFLICT (tier_id, path) DO UPDATE SET subtree = excluded.subtree"
)

# Built once: every release asks it three times.
_PIN_OF = (
    select(Pinned.path)
    .where(Pinned.tier_id == bindparam("tier"))
    .where(
        or_(
            Pinned.path == bindparam("of"),
            Pinned.subtree & Pinned.path.in_(bindparam("above", expanding=True)),
        )
    )
    .limit(1)
)


class Pins(Recorder):
    """Pins, which hold whether or not there is a file at their path."""

    def pin(self, tier_id: int, path: str, *, subtree: bool = False) -> None:
        """Pin a file, or with `subtree` a directory and all below it (`""`: the whole tier)."""
        with self._change() as ledger:
            ledger.connection.execute(_PIN, {"tier": tier_id, "path": os.fsencode(path), "subtree": subtree})
            ledger.tell(Act.PINNED, tier_id=tier_id, path=path, detail="subtree" if subtree else "")

    def unpin(self, tier_id: int, path: str) -> bool:
        """Take the pin of exactly this path away; False where there is none."""
        with self._change() as ledger:
            where = (Pinned.tier_id == tier_id, Pinned.path == path)
            if not ledger.connection.execute(delete(Pinned).where(*where)).rowcount:
                return False
            ledger.tell(Act.UNPINNED, tier_id=tier_id, path=path)
            return True

    def pins(self, tier_id: int | None = None) -> list[Pin]:
        """Every pin, of a tier or of all, by path."""
        query = select(Pinned.tier_id, Pinned.path, Pinned.subtree).order_by(Pinned.tier_id, Pinned.path)
        with self._read() as connection:
            rows = connection.execute(query if tier_id is None else query.where(Pinned.tier_id == tier_id))
            return [Pin(*row) for row in rows]

    def is_pinned(self, tier_id: int, path: str) -> bool:
        """Whether a path is pinned, by itself or by a directory above it."""
        wanted = {"tier": tier_id, "of": path, "above": list(above(path))}
        with self._read() as connection:
            return connection.execute(_PIN_OF, wanted).first() is not None


def above(path: str) -> Iterator[str]:
    """The directories a path lies in, up to the tier itself."""
    while path:
        path = path.rpartition("/")[0]
        yield path
