"""The parts of the FUSE protocol that photographs need and mfusepy's high-level class leaves out.

mfusepy brings libfuse, its structures in the layout of each version, and its main loop. This adds flags of rename,
open files in getattr, chmod, chown, truncate and utimens, SEEK_DATA and SEEK_HOLE, copy_file_range, and replies that
libfuse splices from a descriptor without a copy in Python.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Any, Protocol

import mfusepy

# libfuse's fuse_common.h
CAP_SPLICE_WRITE, CAP_SPLICE_MOVE = 1 << 7, 1 << 8
CAP_DONT_MASK = 1 << 6
CAP_AUTO_INVAL_DATA = 1 << 12
CAP_READDIRPLUS = 1 << 13
CAP_POSIX_ACL = 1 << 19

_BUF_IS_FD, _BUF_FD_SEEK = 1 << 1, 1 << 2  # enum fuse_buf_flags
_UNSET = 0xFFFFFFFF  # -1 of an unsigned owner: leave it
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # bits/stat.h

VERSION: tuple[int, int] = (mfusepy.fuse_version_major, mfusepy.fuse_version_minor)
ENDED_BY_SIGNAL = 8  # what libfuse's main function says of a loop that a signal ended

FileInfo = mfusepy.fuse_file_info

_fuse = mfusepy._libfuse
_fuse.fuse_get_session.argtypes, _fuse.fuse_get_session.restype = (ctypes.c_void_p,), ctypes.c_void_p
_fuse.fuse_session_exited.argtypes = (ctypes.c_void_p,)
_fuse.fuse_getgroups.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.malloc.argtypes, _libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p


class _Buffer(ctypes.Structure):
    """struct fuse_bufvec with its one struct fuse_buf inside, as libfuse lays it out (mfusepy has a pointer there)."""

    _fields_ = (
        ("count", ctypes.c_size_t),
        ("index", ctypes.c_size_t),
        ("done", ctypes.c_size_t),
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("memory", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("position", ctypes.c_int64),
    )


class Operations(Protocol):
    """What a filesystem answers; paths start with "/" and are None where only the open file is known.

    Methods raise OSError; its number goes to the caller. `fi.fh` is whatever `open`, `create` or `opendir` set.
    """

    def init_with_config(self, connection: Any, config: Any) -> None: ...
    def destroy(self, _path: str) -> None: ...
    def getattr(self, path: str | None, fh: int | None) -> os.stat_result: ...
    def readdir(self, _path: None, fh: int) -> Iterator[tuple[str, int, int]]: ...
    def rename(self, old: str, new: str, flags: int) -> None: ...
    def chmod(self, path: str | None, mode: int, fh: int | None) -> None: ...
    def chown(self, path: str | None, uid: int, gid: int, fh: int | None) -> None: ...
    def truncate(self, path: str | None, length: int, fh: int | None) -> None: ...
    def utimens(self, path: str | None, fh: int | None, times: tuple[tuple[int, int], tuple[int, int]]) -> None: ...
    def getxattr(self, path: str, name: str) -> bytes: ...
    def before_read(self, fh: int) -> None: ...
    def lseek(self, fh: int, offset: int, whence: int) -> int: ...
    def copy_file_range(self, fh_in: int, at_in: int, fh_out: int, at_out: int, size: int) -> int: ...


def caller() -> tuple[int, int, int, int]:
    """User, group, thread and umask of the process whose request this thread answers."""
    context = _fuse.fuse_get_context().contents
    return context.uid, context.gid, context.pid, context.umask


def caller_groups() -> list[int]:
    """Its supplementary groups. Raises OSError when it has ended."""
    room = 64
    while True:
        numbers = (ctypes.c_uint32 * room)()
        count = _fuse.fuse_getgroups(room, numbers)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        if count <= room:
            return list(numbers[:count])
        room = count


def given_up() -> bool:
    """Whether the caller was killed or interrupted, or the filesystem is being unmounted."""
    if _fuse.fuse_interrupted():
        return True
    context = _fuse.fuse_get_context().contents
    return bool(_fuse.fuse_session_exited(_fuse.fuse_get_session(context.fuse)))


def _decoded(path: bytes | None) -> str | None:
    return None if path is None else os.fsdecode(path)


def _fh(fip: Any) -> int | None:
    return int(fip.contents.fh) if fip else None


class Channel(mfusepy.FUSE):  # type: ignore[misc]
    """One mounted filesystem: serves `operations` until it is unmounted or the process gets SIGINT or SIGTERM.

    Raises RuntimeError when libfuse cannot mount; it has printed why.
    """

    operations: Operations

    def __init__(self, operations: Operations, mountpoint: str, options: dict[str, str | bool]) -> None:
        super().__init__(
            operations, mountpoint, raw_fi=True, foreground=True, encoding="utf-8", errors="surrogateescape", **options
        )

    def fgetattr(self, path: bytes | None, buf: Any, fip: Any) -> int:
        found = self.operations.getattr(_decoded(path), _fh(fip))
        st = buf.contents
        st.st_mode, st.st_ino, st.st_nlink = found.st_mode, found.st_ino, found.st_nlink
        st.st_uid, st.st_gid, st.st_rdev = found.st_uid, found.st_gid, found.st_rdev
        st.st_size, st.st_blocks, st.st_blksize = found.st_size, found.st_blocks, found.st_blksize
        for name in ("atime", "mtime", "ctime"):
            spec = getattr(st, f"st_{name}spec")
            spec.tv_sec, spec.tv_nsec = divmod(getattr(found, f"st_{name}_ns"), 1_000_000_000)
        return 0

    def readdir_fuse_3(self, _path: None, buf: Any, filler: Any, _offset: int, fip: Any, _flags: int) -> int:
        st = mfusepy.c_stat()
        for name, mode, inode in self.operations.readdir(None, fip.contents.fh):
            st.st_mode, st.st_ino = mode, inode
            if filler(buf, os.fsencode(name), st, 0, 0) != 0:
                break
        return 0

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags)
        return 0

    def chmod_fuse_3(self, path: bytes | None, mode: int, fip: Any) -> int:
        self.operations.chmod(_decoded(path), mode, _fh(fip))
        return 0

    def chown_fuse_3(self, path: bytes | None, uid: int, gid: int, fip: Any) -> int:
        wanted = [-1 if number == _UNSET else number for number in (uid, gid)]
        self.operations.chown(_decoded(path), wanted[0], wanted[1], _fh(fip))
        return 0

    def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
        self.operations.truncate(_decoded(path), length, _fh(fip))
        return 0

    def utimens_fuse_3(self, path: bytes | None, buf: Any, fip: Any) -> int:
        access, change = buf.contents.actime, buf.contents.modtime
        times = (access.tv_sec, access.tv_nsec), (change.tv_sec, change.tv_nsec)
        self.operations.utimens(_decoded(path), _fh(fip), times)
        return 0

    def getxattr(self, path: bytes, name: bytes, value: Any, size: int, *_args: Any) -> int:
        found = self.operations.getxattr(os.fsdecode(path), os.fsdecode(name))
        if size == 0:
            return len(found)
        if len(found) > size:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        ctypes.memmove(value, found, len(found))
        return len(found)

    def read_buf(self, _path: None, reply: Any, size: int, offset: int, fip: Any) -> int:
        fd = fip.contents.fh
        self.operations.before_read(fd)
        address = _libc.malloc(ctypes.sizeof(_Buffer))  # libfuse frees it
        if not address:
            raise MemoryError
        buffer = _Buffer.from_address(address)
        buffer.count, buffer.index, buffer.done = 1, 0, 0
        buffer.size, buffer.flags, buffer.memory = size, _BUF_IS_FD | _BUF_FD_SEEK, None
        buffer.fd, buffer.position = fd, offset
        ctypes.cast(reply, ctypes.POINTER(ctypes.c_void_p))[0] = address
        return 0

    def lseek(self, _path: None, offset: int, whence: int, fip: Any) -> int:
        return self.operations.lseek(fip.contents.fh, offset, whence)

    def copy_file_range(
        self, _in: bytes, fip_in: Any, at_in: int, _out: bytes, fip_out: Any, at_out: int, size: int, _flags: int
    ) -> int:
        return self.operations.copy_file_range(fip_in.contents.fh, at_in, fip_out.contents.fh, at_out, size)
