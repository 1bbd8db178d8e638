"""System calls as the process that asks, and names that cannot lead out of a folder.

A filesystem that runs as root and opens files on behalf of others must not become the way around their permissions:
between the kernel's check and the open somebody may swap what stands at the name. So each call is made with the user,
the groups and (for anybody but root) without the capabilities of the caller; the filesystem below decides, and its
answer is the caller's. The identity is that of one thread (setfsuid(2), and setgroups as a bare system call, which
glibc would spread over all threads).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from archiver.tiers import fileops

_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159}.get(platform.machine())
_SYS_OPENAT2 = 437  # the same everywhere
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_AT_SYMLINK_NOFOLLOW = 0x100
_UNCHANGED = 0xFFFFFFFF  # to setfsuid: only tell

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


Time = tuple[int, int]  # seconds and nanoseconds since 1970; UTIME_NOW and UTIME_OMIT as utimensat(2) has them


def can_impersonate() -> bool:
    """Whether this process may act as other users."""
    return os.geteuid() == 0 and _SYS_SETGROUPS is not None


@contextmanager
def acting_as(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """Let this thread create, open and change files as somebody else. Raises PermissionError where it may not."""
    own_gid, own_groups = os.getegid(), os.getgroups()
    try:
        _set_groups(groups)
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        if (_libc.setfsuid(_UNCHANGED), _libc.setfsgid(_UNCHANGED)) != (uid, gid):
            raise PermissionError(errno.EPERM, f"cannot act as user {uid}, group {gid}")
        yield
    finally:
        _libc.setfsuid(0)  # gives the capabilities back, which setgroups needs
        _libc.setfsgid(own_gid)
        _set_groups(own_groups)


def _set_groups(groups: Sequence[int]) -> None:
    _check(_libc.syscall(_SYS_SETGROUPS, len(groups), (ctypes.c_uint32 * len(groups))(*groups)))


def open_folder(root_fd: int, relative: str) -> int:
    """A folder below `root_fd`, for paths only (O_PATH); no symbolic link is followed. Raises OSError."""
    how = _OpenHow(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    fd = _libc.syscall(_SYS_OPENAT2, root_fd, os.fsencode(relative), ctypes.byref(how), ctypes.sizeof(how))
    if fd >= 0:
        return int(fd)
    code = ctypes.get_errno()
    if code == errno.ENOSYS:  # before Linux 5.6, and under old container runtimes
        return fileops.open_directory(root_fd, relative)
    raise OSError(code, os.strerror(code))


def set_times(folder_fd: int, name: str, times: tuple[Time, Time]) -> None:
    """Access and modification time of a name, which may be a symbolic link. Raises OSError."""
    _check(_libc.utimensat(folder_fd, os.fsencode(name), _timespecs(times), _AT_SYMLINK_NOFOLLOW))


def set_open_times(fd: int, times: tuple[Time, Time]) -> None:
    """Access and modification time of an open file. Raises OSError."""
    _check(_libc.futimens(fd, _timespecs(times)))


def rename(old_fd: int, old: str, new_fd: int, new: str, flags: int) -> None:
    """renameat2(2) with any flags. Raises OSError."""
    _check(_libc.renameat2(old_fd, os.fsencode(old), new_fd, os.fsencode(new), ctypes.c_uint(flags)))


def allocate(fd: int, mode: int, offset: int, size: int) -> None:
    """fallocate(2) with any mode. Raises OSError."""
    _check(_libc.fallocate(fd, mode, offset, size))


def _timespecs(times: tuple[Time, Time]) -> ctypes.Array[_Timespec]:
    return (_Timespec * 2)(*(_Timespec(*time) for time in times))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
