"""Writing over a placeholder, in its own inode: what stands behind its head first, the head last.

Whoever opens a file for writing with O_TRUNC meanwhile is held back by nothing (no lease while a reader waits, no event
of fanotify), so it is looked at before each piece whether the placeholder still stands there.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from archiver.catalog.rows import State
from archiver.errors import FileModified
from archiver.formats import BLOCK
from archiver.lifecycle.arrows import arrow
from archiver.tiers import fileops

_PIECE = 1 << 20  # bytes of one write


def write_over(fd: int, content: bytes, path: Path, act: str, *, head: int = BLOCK) -> None:
    """Overwrite the placeholder open at `fd` with content of its length, its first `head` bytes last.

    Until those are written the file is a placeholder with its record; from then on it is the whole content, durable
    when the caller has synced it. Space is claimed before anything is written, so that a full disk leaves the
    placeholder untouched. `path` and `act` are for messages and arrows. Raises FileModified where somebody writes to
    it, which is then left to them; OSError.
    """
    placeholder = os.pread(fd, head, 0)

    def require_placeholder() -> None:
        if os.fstat(fd).st_size != len(content) or os.pread(fd, head, 0) != placeholder:
            raise FileModified(path=path, state=State.RELEASED.label)

    require_placeholder()
    fileops.reserve(fd, len(content))
    view = memoryview(content)
    offset = head
    while offset < len(content):
        require_placeholder()
        offset += os.pwrite(fd, view[offset : offset + _PIECE], offset)
    os.fdatasync(fd)
    arrow(f"{act}.tail_written")
    require_placeholder()
    os.pwrite(fd, view[:head], 0)
    arrow(f"{act}.head_written")


def require_untouched(fd: int, content: bytes, path: Path, own: int) -> None:
    """That nobody has written behind a placeholder's first `own` bytes, as is possible where no reader is noticed.

    What `content` has at the same place was left by an act that died, zeros by a tool that makes no holes. Raises
    FileModified, OSError.
    """
    offset = _data_from(fd, own)
    while offset is not None:
        found = os.pread(fd, BLOCK - offset % BLOCK, offset)
        if found.strip(b"\0") and found != content[offset : offset + len(found)]:
            raise FileModified(path=path, state=State.RELEASED.label)
        offset = _data_from(fd, offset + len(found))


def _data_from(fd: int, offset: int) -> int | None:
    """Where data begins at or behind `offset`; None where only holes follow. Raises OSError."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
