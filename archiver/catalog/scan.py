"""What a scan tells the catalog: whole directories at a time, many in one transaction, with as little between it and
the disk as can be.

First scans insert hundreds of thousands of files, so new files and directories go past SQLAlchemy's expression
language, as tuples (SQLite) or arrays (PostgreSQL) handed straight to the driver. Everything that was known before goes
through the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from archiver.catalog.ledger import Ledger, Locked, Recorder, pages
from archiver.catalog.rows import (
    LONGEST_PATH,
    Act,
    Applied,
    DirectoryChange,
    DirectoryRow,
    Found,
    FoundColumns,
    Known,
    State,
    Version,
)
from archiver.catalog.store import PAGE
from archiver.catalog.tables import Directory, File, Gone, Recalled, signed64

_DIRECTORIES = select(Directory.id, Directory.path, Directory.fingerprint)
_KNOWN = select(File.id, File.name, File.state, File.size, File.mtime_ns, File.inode)
_TOP = 1 << 63
_SCAN_LOCK = 0x7363616E  # "scan"; advisory locks are told apart by number, within one database
_SPOKEN_FOR = (State.RECORDED, State.RELEASED, State.RECALLED)

_COLUMNS = 7  # values of a new file
_TOGETHER = 500
"""New rows in one SQLite statement, which starts trigger, checks and sequence once for all, and lets other threads work
meanwhile. SQLite takes 32,766 values since 3.32."""

_NEW_ROW = "(?, ?, ?, 1, ?, ?, ?, ?)"
_NEW_FILES = {
    "sqlite": f"""
        INSERT INTO file (directory_id, tier_id, name, state, size, mtime_ns, inode, accessed_at)
        VALUES {_NEW_ROW}""",
    "postgresql": """
        INSERT INTO file (directory_id, tier_id, name, state, size, mtime_ns, inode, accessed_at)
        SELECT directory_id, tier_id, name, 1, size, mtime_ns, inode, accessed_at
        FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
        AS new (directory_id, tier_id, name, size, mtime_ns, inode, accessed_at)""",
}


class ScanWriter(Recorder):
    """Directories, and the differences that a scan finds. Paths are bytes here, as the kernel gives them."""

    def directory(self, tier_id: int, path: str | bytes) -> DirectoryRow | None:
        """One directory of a tier, None where no scan has seen it (or it vanished)."""
        with self._read() as connection:
            where = (Directory.tier_id == tier_id, Directory.path == path, Directory.present)
            row = connection.execute(_DIRECTORIES.where(*where)).one_or_none()
        return None if row is None else _directory_row(*row)

    def directories(self, tier_id: int) -> Iterator[DirectoryRow]:
        """Every present directory of a tier, in the order of the bytes of their paths, page by page."""
        query = _DIRECTORIES.where(Directory.tier_id == tier_id, Directory.present).order_by(Directory.path)
        last: str | None = None
        while True:
            with self._read() as connection:
                rows = connection.execute(
                    (query if last is None else query.where(Directory.path > last)).limit(PAGE)
                ).all()
            for row in rows:
                yield _directory_row(*row)
            if len(rows) < PAGE:
                return
            last = rows[-1][1]

    def children(self, directory_id: int) -> list[DirectoryRow]:
        """The present directories directly in a directory."""
        with self._read() as connection:
            where = (Directory.parent_id == directory_id, Directory.present)
            return [_directory_row(*row) for row in connection.execute(_DIRECTORIES.where(*where))]

    def files_in(self, directory_id: int) -> list[Known]:
        """The files directly in a directory, gone ones included: what a scanner compares with what it sees."""
        with self._read() as connection:
            mark = "?" if self.is_sqlite else "%s"
            query = f"SELECT id, name, state, size, mtime_ns, inode FROM file WHERE directory_id = {mark}"
            rows = connection.exec_driver_sql(query, (directory_id,)).all()
        return [Known(*row)._replace(inode=row[5] % (1 << 64)) for row in rows]

    def files_behind(self, directory_id: int, name: bytes = b"", limit: int = PAGE) -> list[Known]:
        """As `files_in`, in the order of the bytes of the names, from behind `name` on: for directories of any size."""
        query = _KNOWN.where(File.directory_id == directory_id, File.name > name).order_by(File.name).limit(limit)
        with self._read() as connection:
            return [_known(*row) for row in connection.execute(query)]

    def files_known(self, file_ids: Sequence[int]) -> dict[int, Known]:
        """Files by their numbers, as they are now."""
        found: dict[int, Known] = {}
        with self._read() as connection:
            for page in pages(file_ids):
                found |= {row.id: _known(*row) for row in connection.execute(_KNOWN.where(File.id.in_(page)))}
        return found

    def apply_changes(self, tier_id: int, changes: Sequence[DirectoryChange]) -> Applied:
        """Bring directories of one tier up to date, in one transaction.

        New files are resident. A changed file that a record speaks for is superseded, any other gets its new version
        and may be tried again. A missing file is gone; one that comes back is what it was, or superseded if it is not
        the same any more. Superseded, gone and returned files have an audit row each; new ones only that of
        `finish_scan`. Directories with a path longer than LONGEST_PATH are left out, and counted.
        """
        given = len(changes)
        changes = [change for change in changes if len(change.path) <= LONGEST_PATH]
        with self._change() as ledger:
            if not self.is_sqlite:
                # One writer of a tier's new files and directories at a time; SQLite has only one of anything.
                ledger.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, %s)", (_SCAN_LOCK, tier_id))
            numbers, fresh = _number_directories(ledger.connection, tier_id, changes)
            new, changed = _sort_new(ledger.connection, numbers, fresh, changes)
            changed += [pair for change in changes for pair in change.changed]
            vanished = _with_all_below(ledger.connection, [number for change in changes for number in change.vanished])
            missing = [file_id for change in changes for file_id in change.missing]
            missing += _files_of(ledger.connection, vanished)
            if not self.is_sqlite:
                # All at once and in the order in which everybody locks files; SQLite has only one writer.
                for page in pages(sorted({*missing, *(file_id for file_id, _ in changed)})):
                    ledger.lock(page)
            applied = Applied(new=_insert_files(ledger, tier_id, new), too_deep=given - len(changes))
            for some in pages(sorted(changed)):
                applied = applied.plus(_update_files(ledger, some))
            for page in pages(missing):
                applied = applied.plus(_lose_files(ledger, page))
            for page in pages(vanished):
                absent = update(Directory).where(Directory.id.in_(page)).values(present=False, fingerprint=None)
                ledger.connection.execute(absent)
            prints = [{"directory": numbers[change.path], "print": change.fingerprint} for change in changes]
            if prints:
                stamp = update(Directory).where(Directory.id == bindparam("directory"))
                ledger.connection.execute(stamp.values(fingerprint=bindparam("print"), present=True), prints)
            return applied


def _directory_row(directory_id: int, path: str, fingerprint: bytes | None) -> DirectoryRow:
    return DirectoryRow(directory_id, os.fsencode(path), None if fingerprint is None else bytes(fingerprint))


def _known(file_id: int, name: str, *rest: int) -> Known:
    return Known(file_id, os.fsencode(name), *rest)


# -- directories -------------------------------------------------------------------------------------------------------


def _number_directories(
    connection: Connection, tier_id: int, changes: Sequence[DirectoryChange]
) -> tuple[dict[bytes, int], set[int]]:
    """Every changed directory's number, by path; unknown ones are made, with their parents. Also the numbers made."""
    numbers = {change.path: change.directory_id for change in changes if change.directory_id is not None}
    wanted = {parent for change in changes if change.directory_id is None for parent in _with_parents(change.path)}
    wanted -= numbers.keys()
    query = select(Directory.id, Directory.path, Directory.present).where(Directory.tier_id == tier_id)
    absent: list[int] = []
    for paths in pages(sorted(wanted)):
        for number, path, present in connection.execute(query.where(Directory.path.in_(paths))):
            numbers[os.fsencode(path)] = number
            absent += () if present else (number,)
    for page in pages(absent):  # it came back, with what it lies in
        connection.execute(update(Directory).where(Directory.id.in_(page)).values(present=True))
    unknown = sorted(wanted - numbers.keys())  # a parent sorts before what is in it
    rows = []
    for number, raw in zip(_reserve(connection, len(unknown)), unknown, strict=True):
        numbers[raw] = number
        parent = numbers[raw.rpartition(b"/")[0]] if raw else None
        rows.append({"id": number, "tier_id": tier_id, "parent_id": parent, "path": raw, "present": True})
    if rows:
        connection.execute(insert(Directory), rows)
    return numbers, {row["id"] for row in rows if isinstance(row["id"], int)}


def _with_parents(path: bytes) -> Iterator[bytes]:
    """A directory and all above it, up to the tier itself."""
    yield path
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def _reserve(connection: Connection, count: int) -> Sequence[int]:
    """Numbers for so many new directories; they have to be known before the rows are sent in one go."""
    if not count:
        return ()
    if connection.dialect.name == "sqlite":
        # The write lock is held, and sqlite_sequence remembers the numbers of rows since deleted.
        last = connection.exec_driver_sql("SELECT max(seq) FROM sqlite_sequence WHERE name = 'directory'").scalar() or 0
        return range(last + 1, last + 1 + count)
    query = "SELECT nextval(pg_get_serial_sequence('directory', 'id')) FROM generate_series(1, %s)"
    return connection.exec_driver_sql(query, (count,)).scalars().all()


# -- files -------------------------------------------------------------------------------------------------------------

_Change = tuple[int, Found]
_NewFiles = tuple[int, FoundColumns]  # in the directory of that number


def _sort_new(
    connection: Connection, numbers: dict[bytes, int], fresh: set[int], changes: Sequence[DirectoryChange]
) -> tuple[list[_NewFiles], list[_Change]]:
    """New files by directory, and those that the catalog has after all (a watcher was faster, a gone one is back)."""
    new: list[_NewFiles] = []
    known: list[_Change] = []
    for change in changes:
        if not change.new:
            continue
        number = numbers[change.path]
        files = change.new
        if number not in fresh:
            files, found = _split(connection, number, files)
            known += found
        new.append((number, FoundColumns.of(files)))
    return new, known


def _split(connection: Connection, directory_id: int, files: Sequence[Found]) -> tuple[list[Found], list[_Change]]:
    by_name = {found.name: found for found in files}
    known: list[_Change] = []
    query = select(File.id, File.name).where(File.directory_id == directory_id)
    for names in pages(by_name):
        for file_id, name in connection.execute(query.where(File.name.in_(names))):
            known.append((file_id, by_name.pop(os.fsencode(name))))
    return list(by_name.values()), known


def _insert_files(ledger: Ledger, tier_id: int, new: Sequence[_NewFiles]) -> int:
    columns: list[list[Any]] = [[] for _ in range(_COLUMNS)]
    for directory_id, files in sorted(new, key=itemgetter(0)):  # in the order of the index, whose pages are full then
        inodes = files.inodes if max(files.inodes, default=0) < _TOP else map(signed64, files.inodes)
        whose = ([directory_id] * len(files), [tier_id] * len(files))
        rows = (*whose, files.names, files.sizes, files.mtimes_ns, inodes, files.accessed_at)
        for column, values in zip(columns, rows, strict=True):
            column += values
    sizes = columns[3]
    if not sizes:
        return 0
    dialect = ledger.connection.dialect.name
    if dialect == "sqlite":
        flat: list[Any] = [None] * (_COLUMNS * len(sizes))  # all rows, one behind the other
        for number, column in enumerate(columns):
            flat[number::_COLUMNS] = column
        for at in range(0, len(flat), _TOGETHER * _COLUMNS):
            some = tuple(flat[at : at + _TOGETHER * _COLUMNS])
            more = f", {_NEW_ROW}" * (len(some) // _COLUMNS - 1)
            ledger.connection.exec_driver_sql(_NEW_FILES[dialect] + more, some)
    else:
        ledger.connection.exec_driver_sql(_NEW_FILES[dialect], tuple(columns))
    ledger.count(tier_id, State.RESIDENT, len(sizes), sum(sizes))
    return len(sizes)


def _update_files(ledger: Ledger, changed: Sequence[_Change]) -> Applied:
    """Give known files the version that was seen, and the state that follows from it."""
    seen = dict(changed)
    locked = ledger.lock(seen)
    was = _what_gone_files_were(ledger.connection, [file.id for file in locked.values() if file.state == State.GONE])
    pairs: list[tuple[Locked, Locked]] = []
    superseded = returned = 0
    for file_id, file in locked.items():
        found = seen[file_id]
        same = file.version == Version(found.size, found.mtime_ns, found.inode)
        state = _state_after(State(file.state), was.get(file_id), same)
        if same and state == file.state:
            continue
        new = file.at_version(Version(found.size, found.mtime_ns, found.inode))
        new = new._replace(state=state, accessed_at=max(file.accessed_at, found.accessed_at))
        new = new if same else new._replace(refusal=None)
        pairs.append((file, new))
        if file.state == State.GONE:
            returned += 1
            ledger.tell(Act.RETURNED, new, detail="" if same else "changed")
        elif state != file.state:
            superseded += 1
            ledger.tell(Act.SUPERSEDED, new)
    ledger.write(pairs)
    back = [old.id for old, _ in pairs if old.state == State.GONE]
    ledger.connection.execute(delete(Gone).where(Gone.file_id.in_(back)))
    no_longer = [new.id for _, new in pairs if new.state == State.SUPERSEDED]
    ledger.connection.execute(delete(Recalled).where(Recalled.file_id.in_(no_longer)))
    return Applied(changed=len(pairs) - superseded - returned, superseded=superseded, returned=returned)


def _state_after(state: State, was: State | None, same: bool) -> State:
    """What a file is once it has been seen, as it was known or changed."""
    before = was or state
    return State.SUPERSEDED if before in _SPOKEN_FOR and not same else before


def _what_gone_files_were(connection: Connection, file_ids: Sequence[int]) -> dict[int, State]:
    if not file_ids:
        return {}
    query = select(Gone.file_id, Gone.was).where(Gone.file_id.in_(file_ids))
    return {file_id: State(was) for file_id, was in connection.execute(query)}


def _lose_files(ledger: Ledger, file_ids: Sequence[int]) -> Applied:
    """Files that are not there any more: they keep their record, and what they were."""
    present = [file for file in ledger.lock(file_ids).values() if file.state != State.GONE]
    if not present:
        return Applied()
    gone = [{"file_id": file.id, "was": file.state, "at": ledger.at} for file in present]
    ledger.connection.execute(insert(Gone), gone)
    ledger.write([(file, file._replace(state=State.GONE)) for file in present])
    for file in present:
        ledger.tell(Act.GONE, file, detail=State(file.state).label)
    return Applied(gone=len(present))


def _with_all_below(connection: Connection, directory_ids: Sequence[int]) -> list[int]:
    """Directories, and all that are present below them."""
    found: list[int] = []
    level = list(directory_ids)
    while level:
        found += level
        below: list[int] = []
        for ids in pages(level):
            below += connection.scalars(select(Directory.id).where(Directory.parent_id.in_(ids), Directory.present))
        level = below
    return found


def _files_of(connection: Connection, directory_ids: Sequence[int]) -> Iterator[int]:
    """The files directly in directories that are not gone yet."""
    for ids in pages(directory_ids):
        yield from connection.scalars(select(File.id).where(File.directory_id.in_(ids), File.state != State.GONE))
