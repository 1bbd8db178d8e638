"""Counters: read in no time however many files there are, and proved against the rows when somebody asks."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from archiver.catalog.ledger import Recorder
from archiver.catalog.rows import Act, Correction, State, StateCount, TierSummary
from archiver.catalog.tables import Counter, File, Held, Record, Tier
from archiver.catalog.tiers import tier_row

_Count = tuple[int, int]


class Counters(Recorder):
    """How much there is of what."""

    def summary(self) -> list[TierSummary]:
        """Every tier with its counters, by name."""
        with self._read() as connection:
            tiers = connection.execute(select(Tier.__table__).order_by(Tier.name)).mappings().all()
            kept = _kept(connection)
        return [
            TierSummary(
                tier_row(row),
                tuple(StateCount(state, *kept.get((row["id"], state), (0, 0))) for state in State),
                row["held_files"],
                row["held_bytes"],
                row["behind_bytes"],
            )
            for row in tiers
        ]

    def integrity(self) -> list[str]:
        """What the database finds wrong with its own file, which it reads; PostgreSQL checks pages as it reads them."""
        if not self.is_sqlite:
            return []
        with self._read() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
            return [str(problem) for problem in found if problem != "ok"]

    def recount(self, *, correct: bool = True) -> list[Correction]:
        """Count every row; returns the counters that did not agree, and with `correct` puts them right, with an audit
        row each.

        Takes as long as reading the table of files does, and nobody else writes meanwhile.
        """
        with self._change() as ledger:
            connection = ledger.connection
            if not self.is_sqlite:
                connection.exec_driver_sql("LOCK TABLE file, holding, counter, tier IN SHARE ROW EXCLUSIVE MODE")
            kept, counted = _kept(connection), _counted(connection)
            held_kept, held_counted = _held_kept(connection), _held_counted(connection)
            behind_kept, behind_counted = _behind_kept(connection), _behind_counted(connection)
            names = {row.id: row.name for row in connection.execute(select(Tier.id, Tier.name))}
            corrections = []
            for tier_id, name in sorted(names.items()):
                for state in State:
                    is_, should = kept.get((tier_id, state), (0, 0)), counted.get((tier_id, state), (0, 0))
                    if is_ != should:
                        corrections.append(Correction(name, state.label, *is_, *should))
                        where = (Counter.tier_id == tier_id, Counter.state == state)
                        fix = update(Counter).where(*where).values(files=should[0], bytes=should[1])
                        if correct:
                            connection.execute(fix)
                is_, should = held_kept[tier_id], held_counted.get(tier_id, (0, 0))
                if is_ != should:
                    corrections.append(Correction(name, "held", *is_, *should))
                    if correct:
                        fix = update(Tier).where(Tier.id == tier_id).values(held_files=should[0], held_bytes=should[1])
                        connection.execute(fix)
                if behind_kept[tier_id] != (behind := behind_counted.get(tier_id, 0)):
                    corrections.append(Correction(name, "behind", 0, behind_kept[tier_id], 0, behind))
                    if correct:
                        connection.execute(update(Tier).where(Tier.id == tier_id).values(behind_bytes=behind))
            if correct:
                numbers = {name: tier_id for tier_id, name in names.items()}
                for wrong in corrections:
                    said, are = (
                        f"{wrong.files} files, {wrong.bytes} bytes",
                        f"{wrong.counted_files}, {wrong.counted_bytes}",
                    )
                    detail = f"{wrong.what}: {said} were {are}"
                    ledger.tell(Act.CORRECTED, tier_id=numbers[wrong.tier], detail=detail)
            return corrections


def _kept(connection: Connection) -> dict[tuple[int, int], _Count]:
    query = select(Counter.tier_id, Counter.state, Counter.files, Counter.bytes)
    return {(tier, state): (files, size) for tier, state, files, size in connection.execute(query)}


def _counted(connection: Connection) -> dict[tuple[int, int], _Count]:
    query = select(File.tier_id, File.state, func.count(), func.sum(File.size)).group_by(File.tier_id, File.state)
    return {(tier, state): (files, int(size)) for tier, state, files, size in connection.execute(query)}


def _held_kept(connection: Connection) -> dict[int, _Count]:
    query = select(Tier.id, Tier.held_files, Tier.held_bytes)
    return {tier: (files, size) for tier, files, size in connection.execute(query)}


def _behind_kept(connection: Connection) -> dict[int, int]:
    return {row.id: row.behind_bytes for row in connection.execute(select(Tier.id, Tier.behind_bytes))}


def _behind_counted(connection: Connection) -> dict[int, int]:
    query = select(File.tier_id, func.sum(File.behind)).where(File.state == State.RELEASED, File.behind.is_not(None))
    return {tier: int(size or 0) for tier, size in connection.execute(query.group_by(File.tier_id))}


def _held_counted(connection: Connection) -> dict[int, _Count]:
    query = (
        select(File.tier_id, func.count(), func.sum(Held.size))
        .select_from(Held)
        .join(Record, Record.id == Held.record_id)
        .join(File, File.id == Record.file_id)
        .group_by(File.tier_id)
    )
    return {tier: (files, int(size)) for tier, files, size in connection.execute(query)}
