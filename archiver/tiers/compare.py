"""How one directory differs from what the catalog knows of it.

A listing is old the moment it is read, and an archiver process may exchange a file meanwhile. So nothing is called
changed or missing before it was looked at again, with no act on it under way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from archiver.catalog import Catalog
from archiver.catalog.rows import DirectoryChange, DirectoryRow, Found, FoundColumns, Known, State
from archiver.tiers.listing import Listing
from archiver.tiers.local import LocalTier

_NS = 1_000_000_000


@dataclass(slots=True)
class Difference:
    """A directory's change, and when its unchanged files were last used: (name, seconds since 1970)."""

    change: DirectoryChange
    accesses: list[tuple[str, int]] = field(default_factory=list)


def as_new(path: bytes, listing: Listing, fingerprint: bytes | None, now: int) -> DirectoryChange:
    """A directory that the catalog does not know."""
    return DirectoryChange(path, None, fingerprint, new=_columns(listing, now))


def _columns(listing: Listing, now: int) -> FoundColumns:
    """`all_found`, as columns, sorted by name: neighbours in an index are written together."""
    if not listing.files:
        return FoundColumns.of(())
    # Hundreds of thousands in a first scan, so: no call of Python code for each, and the names encoded all at once.
    names, sizes, mtimes_ns, inodes, atimes_ns = zip(*sorted(listing.files), strict=True)
    latest = now * _NS
    used = [(at if at < latest else latest) // _NS for at in map(max, mtimes_ns, atimes_ns)]
    return FoundColumns(os.fsencode("/".join(names)).split(b"/"), sizes, mtimes_ns, inodes, used)


def all_found(listing: Listing, now: int) -> list[Found]:
    """What the catalog is told of the files of a listing.

    A file was last used when it was read or written, whichever is later. A time in the future counts as now: it would
    keep the file warm for ever.
    """
    return [
        Found(os.fsencode(name), size, mtime_ns, inode, min(max(atime_ns, mtime_ns) // _NS, now))
        for name, size, mtime_ns, inode, atime_ns in listing.files
    ]


class Comparison:
    """Compares directories of one tier with the catalog."""

    def __init__(self, catalog: Catalog, tier: LocalTier, now: int) -> None:
        self._catalog = catalog
        self._tier = tier
        self._now = now

    def compare(
        self,
        fd: int,
        known: DirectoryRow,
        children: Iterable[DirectoryRow],
        listing: Listing,
        fingerprint: bytes | None,
    ) -> Difference:
        """The difference of the directory open at `fd`."""
        rows = {row.name: row for row in self._catalog.files_in(known.id)}
        new: list[Found] = []
        changed: list[tuple[Known, Found]] = []
        accesses: list[tuple[str, int]] = []
        for seen, now_there in zip(listing.files, all_found(listing, self._now), strict=True):
            row = rows.pop(now_there.name, None)
            if row is None:
                new.append(now_there)
            elif row.state == State.GONE or (row.size, row.mtime_ns, row.inode) != now_there[1:4]:
                changed.append((row, now_there))
            else:
                accesses.append((seen[0], now_there.accessed_at))
        missing: list[Known] = []
        vanished: list[int] = []
        if listing.problem is None:  # what an incomplete listing lacks is unknown, not absent
            # Looked at once more, one by one: excluded names and mount points are not listed, but there.
            missing = [row for row in rows.values() if row.state != State.GONE and not _is(stat.S_ISREG, fd, row.name)]
            vanished = _vanished(fd, children, listing)
        if changed or missing:
            # An act is in the tier's journal before it touches the file and until the catalog knows of it. So, in this
            # order: one under way is in the journal; of one that is over the file tells, which then is not as listed;
            # and one that begins later finds that the file is not the catalog's.
            under_way = self._tier.inodes_under_way()
            sure = [(row, there) for row, there in changed if row.inode not in under_way and _is_still(fd, there)]
            gone = [row for row in missing if row.inode not in under_way]
            if len(sure) + len(gone) != len(changed) + len(missing):
                fingerprint = None  # somebody is at work here: the next scan looks again
            changed, missing = sure, gone
        change = DirectoryChange(
            known.path,
            known.id,
            fingerprint,
            new=new,
            changed=[(row.id, there) for row, there in changed],
            missing=[row.id for row in missing],
            vanished=vanished,
        )
        return Difference(change, accesses)


def _vanished(fd: int, children: Iterable[DirectoryRow], listing: Listing) -> list[int]:
    """Known subdirectories that are no directories any more."""
    listed = set(map(os.fsencode, listing.directories))
    names = ((child.id, child.path.rpartition(b"/")[2]) for child in children)
    return [number for number, name in names if name not in listed and not _is(stat.S_ISDIR, fd, name)]


def _is(kind: Callable[[int], bool], fd: int, name: bytes) -> bool:
    now = _lstat(fd, name)
    return now is not None and kind(now.st_mode)


def _is_still(fd: int, there: Found) -> bool:
    now = _lstat(fd, there.name)
    return now is not None and (now.st_size, now.st_mtime_ns, now.st_ino) == there[1:4]


def _lstat(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
