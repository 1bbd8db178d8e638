"""What every change does in its transaction: lock the rows, move them, move the counters, write the audit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, bindparam, insert, select, text, update

from archiver.catalog.rows import Act, State, Version
from archiver.catalog.store import PAGE, Store
from archiver.catalog.tables import Audit, Counter, File, Profile, Rule, Tier

T = TypeVar("T")


class Locked(NamedTuple):
    """A file's row, held by this transaction."""

    id: int
    tier_id: int
    directory_id: int
    name: str
    state: int
    size: int
    mtime_ns: int
    inode: int
    accessed_at: int
    record_id: int | None
    refusal: str | None
    behind: int | None

    @property
    def takes_behind(self) -> int:
        """Bytes on disk that it takes as a placeholder beyond one block."""
        return self.behind or 0 if self.state == State.RELEASED else 0

    @property
    def version(self) -> Version:
        return Version(self.size, self.mtime_ns, self.inode)

    def at_version(self, version: Version) -> Locked:
        """The row as it will be with another file standing there."""
        return self._replace(size=version.size, mtime_ns=version.mtime_ns, inode=version.inode)


_LOCK = (
    select(
        File.id,
        File.tier_id,
        File.directory_id,
        File.name,
        File.state,
        File.size,
        File.mtime_ns,
        File.inode,
        File.accessed_at,
        File.record_id,
        File.refusal,
        File.behind,
    )
    .where(File.id.in_(bindparam("ids", expanding=True)))
    .order_by(File.id)  # one order for all, so that two transactions never wait for each other
    .with_for_update()
)
_WRITE = (
    update(File)
    .where(File.id == bindparam("file"))
    .values(
        {
            key: bindparam(key)
            for key in ("state", "size", "mtime_ns", "inode", "accessed_at", "record_id", "refusal", "behind")
        }
    )
)
_COUNT = (
    update(Counter)
    .where(Counter.tier_id == bindparam("tier"), Counter.state == bindparam("of"))
    .values(files=Counter.files + bindparam("more_files"), bytes=Counter.bytes + bindparam("more_bytes"))
)
_TIER = (
    update(Tier)
    .where(Tier.id == bindparam("tier"))
    .values(
        held_files=Tier.held_files + bindparam("more_files"),
        held_bytes=Tier.held_bytes + bindparam("more_bytes"),
        behind_bytes=Tier.behind_bytes + bindparam("more_behind"),
    )
)


class Ledger:
    """One transaction's changes: files are written at once, counters and audit rows when it is settled."""

    def __init__(self, connection: Connection, at: int) -> None:
        self.connection = connection
        self.at = at
        self._counts: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        self._tiers: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])  # held files, bytes; bytes behind
        self._audit: list[dict[str, Any]] = []
        self._numbers: dict[str | bytes, int] = {}  # of rules and profiles

    def lock(self, file_ids: Iterable[int]) -> dict[int, Locked]:
        """The rows of files, by id; those that do not exist are left out."""
        found = {}
        for ids in pages(sorted(set(file_ids))):
            for row in self.connection.execute(_LOCK, {"ids": ids}):
                found[row[0]] = Locked._make(row)
        return found

    def write(self, pairs: Sequence[tuple[Locked, Locked]]) -> None:
        """Turn rows into other rows, and move the counters with them. Triggers refuse an illegal change of state."""
        if not pairs:
            return
        self.connection.execute(
            _WRITE,
            [
                {
                    "file": new.id,
                    "state": new.state,
                    "size": new.size,
                    "mtime_ns": new.mtime_ns,
                    "inode": new.inode,
                    "accessed_at": new.accessed_at,
                    "record_id": new.record_id,
                    "refusal": new.refusal,
                    "behind": new.behind,
                }
                for _, new in pairs
            ],
        )
        for old, new in pairs:
            self.count(old.tier_id, old.state, -1, -old.size)
            self.count(new.tier_id, new.state, 1, new.size)
            self._tiers[new.tier_id][2] += new.takes_behind - old.takes_behind

    def count(self, tier_id: int, state: int, files: int, size: int) -> None:
        """Move a state's counter."""
        entry = self._counts[tier_id, state]
        entry[0] += files
        entry[1] += size

    def hold(self, tier_id: int, files: int, size: int) -> None:
        """Move the counter of the holding area."""
        entry = self._tiers[tier_id]
        entry[0] += files
        entry[1] += size

    def tell(
        self,
        act: Act,
        file: Locked | None = None,
        *,
        tier_id: int | None = None,
        rule: str = "",
        path: str | None = None,
        detail: str = "",
    ) -> None:
        """Write an act down."""
        self._audit.append(
            {
                "at": self.at,
                "act": int(act),
                "tier_id": file.tier_id if file else tier_id,
                "file_id": file.id if file else None,
                "record_id": file.record_id if file else None,
                "rule_id": self.rule_id(rule),
                "path": path,
                "detail": _storable(detail) or None,
            }
        )
        if len(self._audit) >= PAGE:
            self._write_audit()

    def rule_id(self, name: str) -> int | None:
        """The number of a rule's name, a new one where it has none; None for no rule."""
        return self._number_of(Rule, Rule.name, name) if name else None

    def profile_id(self, fingerprint: bytes) -> int:
        """The number of a profile's fingerprint."""
        return self._number_of(Profile, Profile.fingerprint, fingerprint)

    def settle(self) -> None:
        """Write audit rows and counters; the last thing before the commit, so that others wait for them briefly."""
        self._write_audit()
        counts = [
            {"tier": tier, "of": state, "more_files": files, "more_bytes": size}
            for (tier, state), (files, size) in sorted(self._counts.items())
            if files or size
        ]
        if counts:
            self.connection.execute(_COUNT, counts)
        tiers = [
            {"tier": tier, "more_files": files, "more_bytes": size, "more_behind": behind}
            for tier, (files, size, behind) in sorted(self._tiers.items())
            if files or size or behind
        ]
        if tiers:
            self.connection.execute(_TIER, tiers)

    def _write_audit(self) -> None:
        if self._audit:
            self.connection.execute(insert(Audit), self._audit)
            self._audit = []

    def _number_of(self, table: type[Rule] | type[Profile], column: Any, value: str | bytes) -> int:
        if value not in self._numbers:
            known = select(table.id).where(column == value)
            number = self.connection.scalar(known)
            if number is None:
                # Another process may be adding it at this moment; then its number is the one.
                fresh = f"INSERT INTO {table.__tablename__} ({column.key}) VALUES (:value) ON CONFLICT DO NOTHING"
                self.connection.execute(text(fresh), {"value": value})
                number = self.connection.execute(known).scalar_one()
            self._numbers[value] = number
        return self._numbers[value]


def _storable(detail: str) -> str:
    """Text that both databases take: a message may quote a name that is not UTF-8, or a NUL."""
    return detail.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class Recorder(Store):
    """A store whose changes go through a ledger."""

    @contextmanager
    def _change(self) -> Iterator[Ledger]:
        """A transaction that is all or nothing: files, counters and audit rows."""
        with self._write() as connection:
            ledger = Ledger(connection, self._now())
            yield ledger
            ledger.settle()


def pages(items: Iterable[T], size: int = PAGE) -> Iterator[list[T]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page
