"""inotify(7), as little of it as the watcher needs.

The libraries for it watch whole trees by path, our own area and other mounts included, and tell neither when the kernel
dropped events nor when it refused to watch a subdirectory. Both decide here whether a scan is due.
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

from archiver.errors import WatchLimit

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)

_HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_BUFFER = 1 << 16


class Mask(IntFlag):
    """What is watched, and what is told; linux/inotify.h."""

    ATTRIB = 0x4
    CLOSE_WRITE = 0x8
    CLOSE_NOWRITE = 0x10
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000
    ISDIR = 0x40000000


class Event(NamedTuple):
    """One event; `name` is "" where it is about the watched directory itself. `watch` is -1 for OVERFLOW."""

    watch: int
    mask: int
    name: str


class Inotify:
    """One inotify instance, with a way to wake its reader. Raises WatchLimit, OSError."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _failure("/proc/sys/fs/inotify/max_user_instances")

    def fileno(self) -> int:
        return int(self._fd)

    def watch(self, directory_fd: int, mask: int) -> int:
        """Watch an open directory; the number of its watch, which stays the same. Raises WatchLimit, OSError."""
        # Through /proc: a path could lead elsewhere by now.
        path = f"/proc/self/fd/{directory_fd}".encode()
        watch: int = _libc.inotify_add_watch(self._fd, path, mask | Mask.ONLYDIR)
        if watch < 0:
            raise _failure("/proc/sys/fs/inotify/max_user_watches")
        return watch

    def forget(self, watch: int) -> None:
        """Watch no longer; one that the kernel dropped already (its directory is gone) is fine."""
        _libc.inotify_rm_watch(self._fd, watch)

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
