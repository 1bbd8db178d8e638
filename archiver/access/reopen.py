"""A descriptor for reading only -> one of the same file for writing, without its path."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

_AT_EMPTY_PATH = 0x1000
_MAX_HANDLE = 128  # MAX_HANDLE_SZ

_libc = ctypes.CDLL(None, use_errno=True)


class _Handle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2)."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE),
    )


def for_writing(file: int, roots: Iterable[int]) -> int:
    """The file of a descriptor, opened O_RDWR through the mount of the first root of its filesystem.

    The reader may have come through a mount that is read-only or that nobody else sees; the tier's own is neither.
    Needs CAP_DAC_READ_SEARCH for that. Where there is no such root, no name left to the file, or a filesystem that has
    no handles (an overlay), through the reader's mount. The caller closes it. Raises OSError.
    """
    device = os.fstat(file).st_dev
    for root in roots:
        if os.fstat(root).st_dev == device:
            try:
                return _by_handle(root, file)
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.EOPNOTSUPP):
                    raise
    return os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def _by_handle(root: int, file: int) -> int:
    handle, mount = _Handle(handle_bytes=_MAX_HANDLE), ctypes.c_int()
    if _libc.name_to_handle_at(file, b"", ctypes.byref(handle), ctypes.byref(mount), _AT_EMPTY_PATH) < 0:
        raise _failure("name_to_handle_at")
    # Not waiting: somebody may hold a lease on it.
    found = _libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    if found < 0:
        raise _failure("open_by_handle_at")
    return int(found)


def _failure(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")
