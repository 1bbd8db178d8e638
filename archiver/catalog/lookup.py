"""Finding files and records; long answers come in pages, so that a million of them never lie in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    func,
    literal_column,
    select,
    tuple_,
    update,
)

from archiver.catalog.ledger import Recorder, pages
from archiver.catalog.rows import FileRow, ProfileUse, RecordRow, State, Version
from archiver.catalog.store import PAGE
from archiver.catalog.tables import Directory, File, Gone, Profile, Recalled, Record, RecordMetadata, Rule
from archiver.errors import NotTracked

_FILE = select(
    File.id,
    File.tier_id,
    Directory.path,
    File.name,
    File.state,
    File.size,
    File.mtime_ns,
    File.inode,
    File.accessed_at,
    File.record_id,
    File.refusal,
).join(Directory, Directory.id == File.directory_id)
_RECORD = (
    select(
        Record.id,
        Record.file_id,
        Record.payload,
        Record.sha256,
        Profile.fingerprint,
        Record.scheme,
        func.coalesce(Rule.name, ""),
        Record.created_at,
        Record.format,
        Record.width,
        Record.height,
        Record.semantic,
        Record.label_bce,
        Record.colour,
    )
    .join(Profile, Profile.id == Record.profile_id)
    .outerjoin(Rule, Rule.id == Record.rule_id)
)
# Built once, for what is asked for with every file.
_FILE_AT = _FILE.where(
    Directory.tier_id == bindparam("tier"), Directory.path == bindparam("folder"), File.name == bindparam("named")
)
_FILE_OF = _FILE.where(File.id == bindparam("number"))
_RECORD_OF = _RECORD.where(Record.id == bindparam("number"))

if TYPE_CHECKING:
    Query = Select[*tuple[Any, ...]]

# Spelled as in the index: the databases use a partial index only for a query that says what the index says.
_IN_CANDIDATE_INDEX: ColumnElement[Any] = literal_column("file.state IN (1, 2, 4, 5)")
CANDIDATE_STATES = (State.RESIDENT, State.RECORDED, State.RECALLED, State.SUPERSEDED)


class Lookup(Recorder):
    """Files and records."""

    def find(self, tier_id: int, path: str) -> FileRow | None:
        """The file at a path of a tier, in whatever state."""
        directory, _, name = path.rpartition("/")
        with self._read() as connection:
            row = connection.execute(_FILE_AT, {"tier": tier_id, "folder": directory, "named": name}).one_or_none()
        return None if row is None else file_row(row)

    def file(self, file_id: int) -> FileRow:
        """A file by its number. Raises NotTracked."""
        with self._read() as connection:
            row = connection.execute(_FILE_OF, {"number": file_id}).one_or_none()
        if row is None:
            raise NotTracked(path=f"file {file_id}")
        return file_row(row)

    def released_as(self, tier_id: int, version: Version) -> list[FileRow]:
        """Released files of a tier by what stands there; looks at every file of the tier."""
        where = (File.tier_id == tier_id, File.state == State.RELEASED, File.inode == version.inode)
        with self._read() as connection:
            rows = connection.execute(_FILE.where(*where, File.mtime_ns == version.mtime_ns, File.size == version.size))
            return [file_row(row) for row in rows]

    def moved(self, tier_id: int, since: int) -> Iterator[FileRow]:
        """Resident files of a tier that were released or recalled at another place of it, and gone from there `since`
        (seconds since 1970): inode, length and time are the same. Page by page; looks at every file, but only where any
        is gone.
        """
        was = Gone.was.in_((State.RELEASED, State.RECALLED))
        # Not a join, which SQLite would begin with every file there is.
        recently = File.id.in_(select(Gone.file_id).where(Gone.at >= since, was))
        old = select(File.inode, File.size, File.mtime_ns)
        gone = old.where(recently, File.tier_id == tier_id, File.state == State.GONE)
        with self._read() as connection:
            if connection.execute(gone.limit(1)).first() is None:
                return
        it = gone.distinct().subquery()
        same = (File.inode == it.c.inode) & (File.size == it.c.size) & (File.mtime_ns == it.c.mtime_ns)
        resident = (File.tier_id == tier_id, File.state == State.RESIDENT, _IN_CANDIDATE_INDEX)
        query = _FILE.join(it, same).where(*resident).order_by(File.id).limit(PAGE)
        last = 0
        while True:
            with self._read() as connection:
                rows = [file_row(row) for row in connection.execute(query.where(File.id > last))]
            yield from rows
            if len(rows) < PAGE:
                return
            last = rows[-1].id

    def record(self, record_id: int) -> RecordRow:
        """A record by its number. Raises NotTracked."""
        with self._read() as connection:
            row = connection.execute(_RECORD_OF, {"number": record_id}).one_or_none()
        if row is None:
            raise NotTracked(path=f"record {record_id}")
        return _record_row(row)

    def metadata(self, record_id: int) -> bytes | None:
        """The metadata kept with a record, as it was handed in; None where the file had none."""
        with self._read() as connection:
            return connection.scalar(select(RecordMetadata.data).where(RecordMetadata.record_id == record_id))

    def recalled_hash(self, file_id: int) -> bytes | None:
        """The SHA-256 of the generated bytes of a recalled file."""
        with self._read() as connection:
            return connection.scalar(select(Recalled.sha256).where(Recalled.file_id == file_id))

    def candidates(
        self,
        tier_id: int,
        *,
        states: Iterable[State] = CANDIDATE_STATES,
        accessed_before: int | None = None,
        refused: bool = False,
        limit: int | None = None,
        after: FileRow | None = None,
    ) -> Iterator[FileRow]:
        """Files that could be recorded or released, longest unused first; those once refused only with `refused`.

        `accessed_before`: only those last used before. `after`: go on behind this one. Fetched page by page, each its
        own transaction: a file whose state changes meanwhile is given as it is when its page is read.
        """
        wanted = [int(state) for state in states]
        if not set(wanted) <= set(CANDIDATE_STATES):
            raise ValueError("released and gone files are no candidates")
        query = _FILE.where(File.tier_id == tier_id, _IN_CANDIDATE_INDEX, File.state.in_(wanted))
        if accessed_before is not None:
            query = query.where(File.accessed_at < accessed_before)
        if not refused:
            query = query.where(File.refusal.is_(None))
        key = tuple_(File.accessed_at, File.id)
        query = query.order_by(File.accessed_at, File.id)
        last = (after.accessed_at, after.id) if after is not None else None
        left = limit
        while left is None or left > 0:
            page = query if last is None else query.where(key > last)
            rows = self._page(page, left)
            yield from rows
            if len(rows) < PAGE:
                return
            last = (rows[-1].accessed_at, rows[-1].id)
            left = None if left is None else left - len(rows)

    def stream_files(
        self, tier_id: int | None, states: Iterable[State] | None = None, *, after: int = 0, under: str = ""
    ) -> Iterator[FileRow]:
        """Files of a tier, or of all, in some states, or in all: in the order of their numbers, from the one behind
        `after`.

        With `under`, only those in that directory and below it, in the order of their paths' directories; `after` is
        not used then.
        """
        query = _FILE
        if states is not None:
            query = query.where(File.state.in_([int(state) for state in states]))
        if tier_id is not None:
            query = query.where(File.tier_id == tier_id)
        if under:
            if tier_id is None:
                raise ValueError("a directory is one of a tier")
            yield from self._below(query, tier_id, under)
            return
        query = query.order_by(File.id)
        while True:
            rows = self._page(query.where(File.id > after))
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1].id

    def note_access(self, accesses: Iterable[tuple[int, str, int]]) -> None:
        """Note that files (tier, path) were used at a time; an earlier time than the known one changes nothing."""
        directory = select(Directory.id).where(
            Directory.tier_id == bindparam("tier"), Directory.path == bindparam("folder")
        )
        which = select(File.id, File.name).where(
            File.directory_id == directory.scalar_subquery(), File.name.in_(bindparam("names", expanding=True))
        )
        later = (
            update(File)
            .where(File.id == bindparam("file"), File.accessed_at < bindparam("at"))
            .values(accessed_at=bindparam("at"))
        )
        for page in pages(accesses):
            folders: defaultdict[tuple[int, str], dict[str, int]] = defaultdict(dict)
            for tier_id, path, at in page:
                folder, _, name = path.rpartition("/")
                times = folders[tier_id, folder]
                times[name] = max(at, times.get(name, at))
            with self._write() as connection:
                used: list[dict[str, int]] = []
                for (tier_id, folder), times in folders.items():
                    found = connection.execute(which, {"tier": tier_id, "folder": folder, "names": list(times)})
                    used += [{"file": file_id, "at": times[name]} for file_id, name in found]
                if used:
                    used.sort(key=itemgetter("file"))  # the order in which everybody locks files
                    connection.execute(later, used)

    def profiles(self) -> list[ProfileUse]:
        """Which model profiles the records need; counts them, so it takes a moment for a million."""
        live = File.record_id == Record.id
        speaks = func.coalesce(File.state != State.SUPERSEDED, False) & live
        query = (
            select(Profile.fingerprint, func.count().filter(speaks), func.count())
            .select_from(Record)
            .join(Profile, Profile.id == Record.profile_id)
            .join(File, File.id == Record.file_id)
            .group_by(Profile.fingerprint)
            .order_by(Profile.fingerprint)
        )
        with self._read() as connection:
            return [ProfileUse(bytes(profile), live, total) for profile, live, total in connection.execute(query)]

    def _page(self, query: Query, limit: int | None = None) -> list[FileRow]:
        with self._read() as connection:
            size = PAGE if limit is None else min(PAGE, limit)
            return [file_row(row) for row in connection.execute(query.limit(size))]

    def _below(self, query: Query, tier_id: int, under: str) -> Iterator[FileRow]:
        inside = (Directory.path == under) | ((Directory.path > f"{under}/") & (Directory.path < f"{under}0"))
        directories = select(Directory.id, Directory.path).where(Directory.tier_id == tier_id, inside)
        directories = directories.order_by(Directory.path)
        last: str | None = None
        while True:
            with self._read() as connection:
                more = directories if last is None else directories.where(Directory.path > last)
                found = connection.execute(more.limit(PAGE)).all()
            for directory_id, _ in found:
                yield from self._in_directory(query, directory_id)
            if len(found) < PAGE:
                return
            last = found[-1].path

    def _in_directory(self, query: Query, directory_id: int) -> Iterator[FileRow]:
        query = query.where(File.directory_id == directory_id).order_by(File.name)
        name = None
        while True:
            rows = self._page(query if name is None else query.where(File.name > name))
            yield from rows
            if len(rows) < PAGE:
                return
            name = rows[-1].name


def file_row(row: Any) -> FileRow:
    """A FileRow from the columns of a file query."""
    file_id, tier_id, folder, name, state, *rest = row
    return FileRow(file_id, tier_id, folder, name, State(state), *rest)


def _record_row(row: Any) -> RecordRow:
    return RecordRow(*row)
