"""inotify(7) over watchdog's system calls and constants.

watchdog's own emitters watch whole trees by path, our own area and other mounts included, and tell neither when the
kernel dropped events nor when it refused to watch a subdirectory. Both decide here whether a scan is due, so the events
are read by the watcher itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

from watchdog.observers.inotify_c import (
    InotifyConstants,
    WatchDescriptor,
    inotify_add_watch,
    inotify_init,
    inotify_rm_watch,
)
from watchdog.observers.inotify_c import Mask as RawMask

from archiver.errors import WatchLimit

_HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_BUFFER = 1 << 16


class Mask(IntFlag):
    """What is watched, and what is told."""

    ATTRIB = InotifyConstants.IN_ATTRIB
    CLOSE_WRITE = InotifyConstants.IN_CLOSE_WRITE
    CLOSE_NOWRITE = InotifyConstants.IN_CLOSE_NOWRITE
    MOVED_FROM = InotifyConstants.IN_MOVED_FROM
    MOVED_TO = InotifyConstants.IN_MOVED_TO
    CREATE = InotifyConstants.IN_CREATE
    DELETE = InotifyConstants.IN_DELETE
    DELETE_SELF = InotifyConstants.IN_DELETE_SELF
    MOVE_SELF = InotifyConstants.IN_MOVE_SELF
    UNMOUNT = InotifyConstants.IN_UNMOUNT
    OVERFLOW = InotifyConstants.IN_Q_OVERFLOW
    IGNORED = InotifyConstants.IN_IGNORED
    ONLYDIR = InotifyConstants.IN_ONLYDIR
    ISDIR = InotifyConstants.IN_ISDIR


class Event(NamedTuple):
    """One event; `name` is "" where it is about the watched directory itself. `watch` is -1 for OVERFLOW."""

    watch: int
    mask: int
    name: str


class Inotify:
    """One inotify instance, with a way to wake its reader. Raises WatchLimit, OSError."""

    def __init__(self) -> None:
        self._fd = inotify_init()
        if self._fd < 0:
            raise _failure("/proc/sys/fs/inotify/max_user_instances")
        os.set_inheritable(self._fd, False)
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        return self._fd

    def watch(self, directory_fd: int, mask: int) -> int:
        """Watch an open directory; the number of its watch, which stays the same. Raises WatchLimit, OSError."""
        # Through /proc: a path could lead elsewhere by now.
        path = f"/proc/self/fd/{directory_fd}".encode()
        watch = int(inotify_add_watch(self._fd, path, RawMask(mask | Mask.ONLYDIR)))
        if watch < 0:
            raise _failure("/proc/sys/fs/inotify/max_user_watches")
        return watch

    def forget(self, watch: int) -> None:
        """Watch no longer; one that the kernel dropped already (its directory is gone) is fine."""
        inotify_rm_watch(self._fd, WatchDescriptor(watch))

    def read(self) -> Iterator[Event]:
        """The events waiting, none if there are none."""
        try:
            buffer = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(buffer):
            watch, mask, _, length = _HEADER.unpack_from(buffer, offset)
            offset += _HEADER.size
            name = buffer[offset : offset + length].rstrip(b"\0")
            offset += length
            yield Event(watch, mask, os.fsdecode(name))

    def close(self) -> None:
        """Drop every watch."""
        os.close(self._fd)


def _failure(limit: str) -> WatchLimit | OSError:
    code = ctypes.get_errno()
    if code in (errno.ENOSPC, errno.EMFILE):
        setting = limit.removeprefix("/proc/sys/").replace("/", ".")
        return WatchLimit(setting=setting, value=Path(limit).read_text().strip())
    return OSError(code, os.strerror(code))
