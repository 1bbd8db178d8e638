"""One tracked file, opened safely and held still while an act is done to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from archiver.catalog.rows import FileRow
from archiver.errors import FileBusy, FileModified, FileVanished
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file, open: its path for messages, its descriptor, and what fstat said when it was opened."""

    path: Path
    fd: int
    stat: os.stat_result

    def reader(self) -> BinaryIO:
        """A buffered reader over the same descriptor; closing it leaves the descriptor open."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        return os.fdopen(self.fd, "rb", closefd=False)

    def sha256(self) -> bytes:
        """The hash of all its bytes."""
        return fileops.sha256_of(self.fd)


@dataclass(frozen=True, slots=True)
class Subject(OpenFile):
    """An open file of a tier, with its row and its directory's descriptor."""

    tier: LocalTier
    row: FileRow
    directory_fd: int

    def changed(self) -> bool:
        """True when size, mtime or inode are no longer those of the catalog."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns, now.st_ino) != (self.row.size, self.row.mtime_ns, self.row.inode)

    def require_unchanged(self) -> None:
        """Raises FileModified when the file is not the one the catalog knows."""
        if self.changed():
            raise FileModified(path=self.path, state=self.row.state.label)

    def stands_at(self, directory_fd: int, name: str) -> bool:
        """Whether this very file has that name: another one may have been renamed over it."""
        try:
            return os.path.samestat(self.stat, os.stat(name, dir_fd=directory_fd, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def require_as_opened(self) -> None:
        """Raises FileModified when another file has got its name, or it other attributes, since it was opened."""
        touched = os.fstat(self.fd).st_ctime_ns != self.stat.st_ctime_ns
        if touched or not self.stands_at(self.directory_fd, self.row.name):
            raise FileModified(path=self.path, state=self.row.state.label)


@contextmanager
def hold(tier: LocalTier, row: FileRow, flags: int = os.O_RDONLY) -> Iterator[Subject]:
    """Open the file of `row`, following no symbolic link, and lock it against other archiver processes.

    Raises OSError (the file or a directory of its path is gone, or became a link), FileBusy.
    """
    path = tier.root / row.path
    with tier.own_reads.of(row.path), ExitStack() as opened:
        directory_fd = fileops.open_directory(tier.root_fd, row.directory)
        opened.callback(os.close, directory_fd)
        fd = fileops.open_file(directory_fd, row.name, flags)
        opened.callback(os.close, fd)
        opened.enter_context(locked(fd, path))
        yield Subject(path, fd, os.fstat(fd), tier, row, directory_fd)


@contextmanager
def hold_open(tier: LocalTier, row: FileRow, fd: int) -> Iterator[Subject]:
    """As `hold`, for a descriptor that somebody else opened and closes.

    Raises FileVanished when another file than that of `fd` stands at the row's path, OSError, FileBusy.
    """
    path = tier.root / row.path
    with tier.own_reads.of(row.path), ExitStack() as opened:
        found = os.fstat(fd)
        try:
            directory_fd = fileops.open_directory(tier.root_fd, row.directory)
            opened.callback(os.close, directory_fd)
            standing = os.stat(row.name, dir_fd=directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise FileVanished(path=path) from None
        if not os.path.samestat(found, standing):
            raise FileVanished(path=path)
        opened.enter_context(locked(fd, path))
        yield Subject(path, fd, found, tier, row, directory_fd)


@contextmanager
def locked(fd: int, path: Path) -> Iterator[None]:
    """Keep other archiver processes from acting on the open file. Raises FileBusy."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileBusy(path=path) from None
    try:
        yield
    finally:
        # Said in so many words: another process may have the same open file and close it later than we do.
        fcntl.flock(fd, fcntl.LOCK_UN)
