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
from archiver.errors import FileBusy, FileModified
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


@dataclass(frozen=True, slots=True)
class Subject:
    """An open file of a tier: its row, its directory's descriptor, its own descriptor and what fstat said when it was
    opened.
    """

    tier: LocalTier
    row: FileRow
    directory_fd: int
    fd: int
    stat: os.stat_result

    @property
    def path(self) -> Path:
        return self.tier.root / self.row.path

    def reader(self) -> BinaryIO:
        """A buffered reader over the same descriptor; closing it leaves the descriptor open."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        return os.fdopen(self.fd, "rb", closefd=False)

    def changed(self) -> bool:
        """True when size, mtime or inode are no longer those of the catalog."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns, now.st_ino) != (self.row.size, self.row.mtime_ns, self.row.inode)

    def require_unchanged(self) -> None:
        """Raises FileModified when the file is not the one the catalog knows."""
        if self.changed():
            raise FileModified(path=self.path, state=self.row.state.label)


@contextmanager
def hold(tier: LocalTier, row: FileRow, flags: int = os.O_RDONLY) -> Iterator[Subject]:
    """Open the file of `row`, following no symbolic link, and lock it against other archiver processes.

    Raises OSError (the file or a directory of its path is gone, or became a link), FileBusy.
    """
    with tier.own_reads.of(row.path), ExitStack() as opened:
        directory_fd = fileops.open_directory(tier.root_fd, row.directory)
        opened.callback(os.close, directory_fd)
        fd = fileops.open_file(directory_fd, row.name, flags)
        opened.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileBusy(path=tier.root / row.path) from None
        yield Subject(tier, row, directory_fd, fd, os.fstat(fd))
