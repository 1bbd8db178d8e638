"""Tiers: which there are, whether they can be reached, when they were scanned; and settings, which are as small."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import RowMapping, delete, insert, select, text, update

from archiver.catalog.ledger import Recorder
from archiver.catalog.rows import Act, State, TierRow
from archiver.catalog.tables import Counter, Setting, Tier
from archiver.errors import NotTracked

IDENTITY = "identity"
_SET_ONCE = text("INSERT INTO setting (key, value) VALUES (:key, :value) ON CONFLICT (key) DO NOTHING")
_SET = text(
    "INSERT INTO setting (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


class Tiers(Recorder):
    """Tiers and settings."""

    def ensure_tier(self, name: str, kind: str, root: str, identity: str = "") -> TierRow:
        """The tier of that name, made where there is none.

        A new `root` is taken over; a stored `identity` never is: where the returned one differs from what the tier says
        of itself, another filesystem is mounted there, and the caller must not read it as deleted files.
        """
        named = select(Tier.__table__).where(Tier.name == name)
        with self._write() as connection:
            row = connection.execute(named).mappings().one_or_none()
            if row is None and not self.is_sqlite:
                # Another may be making it. Counters first, as in every change: a recount waits for us, or we for it.
                connection.exec_driver_sql("LOCK TABLE counter, tier IN SHARE ROW EXCLUSIVE MODE")
                row = connection.execute(named).mappings().one_or_none()
            if row is None:
                values = {"name": name, "kind": kind, "root": root, "identity": identity}
                counters = {"held_files": 0, "held_bytes": 0, "behind_bytes": 0}
                fresh = insert(Tier).values(values | counters | {"reachable": True})
                tier_id = connection.execute(fresh.returning(Tier.id)).scalar_one()
                connection.execute(
                    insert(Counter), [{"tier_id": tier_id, "state": state, "files": 0, "bytes": 0} for state in State]
                )
            else:
                tier_id = row["id"]
                known = row["identity"] or identity
                if (row["root"], row["identity"]) != (root, known):
                    connection.execute(update(Tier).where(Tier.id == tier_id).values(root=root, identity=known))
            return tier_row(connection.execute(select(Tier.__table__).where(Tier.id == tier_id)).mappings().one())

    def accept_identity(self, tier_id: int, identity: str) -> None:
        """Take another folder or filesystem for the tier from now on, because somebody said so."""
        with self._change() as ledger:
            ledger.connection.execute(update(Tier).where(Tier.id == tier_id).values(identity=identity))
            ledger.tell(Act.ACCEPTED, tier_id=tier_id, detail="another folder or filesystem stands for it")

    def note_accepted(self, tier_id: int, detail: str) -> None:
        """Write down that somebody had what stands there taken for the tier, and what was taken."""
        with self._change() as ledger:
            ledger.tell(Act.ACCEPTED, tier_id=tier_id, detail=detail)

    def tiers(self) -> list[TierRow]:
        """Every tier, by name."""
        with self._read() as connection:
            rows = connection.execute(select(Tier.__table__).order_by(Tier.name)).mappings()
            return [tier_row(row) for row in rows]

    def tier(self, tier_id: int) -> TierRow:
        """One tier. Raises NotTracked."""
        with self._read() as connection:
            row = connection.execute(select(Tier.__table__).where(Tier.id == tier_id)).mappings().one_or_none()
        if row is None:
            raise NotTracked(path=f"tier {tier_id}")
        return tier_row(row)

    def mark_reachable(self, tier_id: int, reachable: bool, reason: str = "") -> bool:
        """Note whether a tier can be reached; True, and an audit row with the reason, where that is news."""
        with self._change() as ledger:
            changed = ledger.connection.execute(
                update(Tier).where(Tier.id == tier_id, Tier.reachable.is_not(reachable)).values(reachable=reachable)
            ).rowcount
            if changed:
                ledger.tell(Act.REACHABLE if reachable else Act.UNREACHABLE, tier_id=tier_id, detail=reason)
            return bool(changed)

    def finish_scan(self, tier_id: int, at: int, detail: str = "") -> None:
        """Note that a scan of the whole, reachable tier ended at `at`; `detail` sums it up for the audit."""
        with self._change() as ledger:
            first = ledger.connection.scalar(select(Tier.first_scan_done_at).where(Tier.id == tier_id))
            ledger.connection.execute(
                update(Tier)
                .where(Tier.id == tier_id)
                .values(last_scan_at=at, first_scan_done_at=at if first is None else first)
            )
            ledger.tell(Act.SCANNED, tier_id=tier_id, detail=detail)

    def identity(self) -> str:
        """What tells this catalog from every other, for as long as it lives; a backup of it has the same."""
        known = self.setting(IDENTITY)
        if known is None:
            with self._write() as connection:
                connection.execute(_SET_ONCE, {"key": IDENTITY, "value": str(uuid.uuid4())})
                known = str(connection.scalar(select(Setting.value).where(Setting.key == IDENTITY)))
        return known

    def setting(self, key: str) -> str | None:
        """A small fact that an earlier process left."""
        with self._read() as connection:
            return connection.scalar(select(Setting.value).where(Setting.key == key))

    def set_setting(self, key: str, value: str | None) -> None:
        """Leave a small fact for later processes; None takes it away."""
        with self._write() as connection:
            if value is None:
                connection.execute(delete(Setting).where(Setting.key == key))
            else:
                connection.execute(_SET, {"key": key, "value": value})


def tier_row(row: RowMapping | Any) -> TierRow:
    """A TierRow from a row of the table."""
    return TierRow(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        root=row["root"],
        identity=row["identity"],
        reachable=row["reachable"],
        first_scan_done_at=row["first_scan_done_at"],
        last_scan_at=row["last_scan_at"],
    )
