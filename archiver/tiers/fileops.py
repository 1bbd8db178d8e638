"""Small safe primitives on files, all relative to directory descriptors.

A daemon that runs as root must not be led out of its tier by a symlink that somebody swaps into a path, so nothing here
resolves a path of several components at once: directories are opened one component at a time, and files by one name in
an open directory.

Failures are OSError carrying the path; `archiver.errors.from_os_error` turns them into what a user is told.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archiver.errors import FileOpen, LeaseUnsupported, NotInAnyTier, NotRegular

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # linux/fs.h
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2  # linux/falloc.h
_HASH_CHUNK = 1 << 20
_BLOCK = 1 << 16  # bytes; a multiple of every block size that a page can hold

# What the kernel computes from a file's content: beside other content it would make the file unreadable where enforced.
_CONTENT_XATTRS = frozenset({"security.ima", "security.evm"})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


# -- opening -----------------------------------------------------------------------------------------------------------


def open_directory(root_fd: int, relative: str | bytes) -> int:
    """Open a directory below `root_fd`, "" being the root itself; the caller closes it.

    Raises NotInAnyTier for a path that is absolute or leaves the root, OSError (ENOTDIR) where a component is a symlink
    or a file.
    """
    parts = os.fsdecode(relative).split("/") if relative else []
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise NotInAnyTier(path=os.fsdecode(relative))
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(".", flags, dir_fd=root_fd)
    try:
        for part in parts:
            inner = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError as error:
        path = f"{path_of(root_fd)}/{os.fsdecode(relative)}"
        os.close(fd)
        raise OSError(error.errno, error.strerror, path) from error
    return fd


def make_directories(root_fd: int, relative: str | bytes) -> int:
    """Open a directory below `root_fd` as open_directory does, making what is missing of it; the caller closes it."""
    parts = os.fsdecode(relative).split("/") if relative else []
    for depth in range(len(parts)):
        parent_fd = open_directory(root_fd, "/".join(parts[:depth]))
        try:
            os.mkdir(parts[depth], dir_fd=parent_fd)
        except FileExistsError:
            continue
        finally:
            os.close(parent_fd)
    return open_directory(root_fd, relative)


def open_file(dir_fd: int, name: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open (or with O_CREAT create) one regular file in an open directory; the caller closes it.

    Reading leaves the access time alone where the kernel allows it. Never waits: a lease of somebody else, as Samba
    takes for its clients, raises FileOpen. Raises NotRegular for a symlink, a directory, a fifo or a device, OSError
    for anything else.
    """
    text = os.fsdecode(name)
    if "/" in text or text in ("", ".", ".."):
        raise NotInAnyTier(path=text)
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            fd = os.open(name, flags | os.O_NOATIME, mode, dir_fd=dir_fd)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            fd = os.open(name, flags, mode, dir_fd=dir_fd)  # O_NOATIME is for the owner and root
    except OSError as error:
        path = f"{path_of(dir_fd)}/{text}"
        if error.errno == errno.EWOULDBLOCK:
            raise FileOpen(path=path) from error
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise NotRegular(path=path) from error
        raise OSError(error.errno, error.strerror, path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegular(path=f"{path_of(dir_fd)}/{text}")
    os.set_blocking(fd, True)
    return fd


def path_of(fd: int) -> str:
    """The path a descriptor was opened by, as the kernel knows it now; for messages only."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:  # no /proc: the message has to do without
        return f"descriptor {fd}"


def stands(root_fd: int, directory: str | bytes, name: str | bytes) -> bool:
    """Whether anything has that name in a directory below `root_fd`. Raises what open_directory does, OSError."""
    try:
        directory_fd = open_directory(root_fd, directory)
    except FileNotFoundError:
        return False
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.close(directory_fd)
    return True


# -- names -------------------------------------------------------------------------------------------------------------


def exchange(dir_fd_a: int, name_a: str | bytes, dir_fd_b: int, name_b: str | bytes) -> None:
    """Swap two existing names of one filesystem in one atomic step (renameat2, RENAME_EXCHANGE).

    Raises OSError: EINVAL where the filesystem cannot, EXDEV across filesystems, ENOENT where one of them is missing.
    """
    _rename(dir_fd_a, os.fsencode(name_a), dir_fd_b, os.fsencode(name_b), _RENAME_EXCHANGE)


def rename_noreplace(dir_fd_a: int, name_a: str | bytes, dir_fd_b: int, name_b: str | bytes) -> None:
    """Rename without ever replacing what stands at the new name. Raises OSError: EEXIST where something does."""
    _rename(dir_fd_a, os.fsencode(name_a), dir_fd_b, os.fsencode(name_b), _RENAME_NOREPLACE)


def _rename(dir_fd_a: int, name_a: bytes, dir_fd_b: int, name_b: bytes, flags: int) -> None:
    if _libc.renameat2(dir_fd_a, name_a, dir_fd_b, name_b, flags) != 0:
        code = ctypes.get_errno()
        paths = [f"{path_of(fd)}/{os.fsdecode(name)}" for fd, name in ((dir_fd_a, name_a), (dir_fd_b, name_b))]
        raise OSError(code, os.strerror(code), paths[0], None, paths[1])


def fsync_directory(fd: int) -> None:
    """Make the names in an open directory durable."""
    with _named(fd):
        os.fsync(fd)


# -- leases ------------------------------------------------------------------------------------------------------------


class Lease:
    """A write lease on an open file; see write_lease."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._broken: bool | None = None

    @property
    def broken(self) -> bool:
        """Whether somebody has tried to open or truncate the file while the lease was held."""
        if self._broken is None:
            # While a break waits for us F_GETLEASE answers what the lease must become; after the time-out, no lease.
            return fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK
        return self._broken

    def give_back(self) -> None:
        """Let waiting openers go on; `broken` keeps its last answer."""
        if self._broken is None:
            self._broken = self.broken
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@contextmanager
def write_lease(fd: int, path: Path) -> Iterator[Lease]:
    """Hold a write lease on the file open at `fd` (F_SETLEASE, F_WRLCK): nobody else has it open, and openers wait.

    An opener waits until the body ends, at most /proc/sys/fs/lease-break-time seconds; ask `lease.broken` whether there
    was one. Do not open the same file again within the body: that waits, too. `fd` may be read-only; any thread may.
    `path` is for messages.

    Raises FileOpen (also for a second descriptor or a mapping of this process), LeaseUnsupported, OSError (EACCES for a
    file of somebody else without CAP_LEASE).
    """
    with _named(fd):
        # A break is told by a signal, SIGIO unless set otherwise, which would end the process. SIGURG is ignored by
        # default, so it needs no handler (which Python could install from the main thread only).
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EBUSY):
                raise FileOpen(path=path) from error
            if error.errno in (errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise LeaseUnsupported(path=path) from error
            raise
    lease = Lease(fd)
    try:
        yield lease
    finally:
        lease.give_back()


# -- content and attributes --------------------------------------------------------------------------------------------


def punch(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a byte range back: the file keeps its length and reads zeros there (FALLOC_FL_PUNCH_HOLE).

    Raises OSError: EOPNOTSUPP where the filesystem cannot.
    """
    while _libc.fallocate(fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path_of(fd))


def reserve(fd: int, length: int) -> None:
    """Claim the blocks of the first `length` bytes; the file keeps its length, shorter or longer. Raises OSError."""
    while _libc.fallocate(fd, _FALLOC_KEEP_SIZE, 0, length) != 0:
        code = ctypes.get_errno()
        if code == errno.EOPNOTSUPP:
            os.posix_fallocate(fd, 0, length)  # which writes to them
            return
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path_of(fd))


def punch_from(fd: int, offset: int) -> None:
    """Give back all that lies behind `offset`, the last block included, which is freed only when named as a whole."""
    size = os.fstat(fd).st_size
    punch(fd, offset, -(-size // _BLOCK) * _BLOCK - offset)


def copy_attributes(source_fd: int, target_fd: int, *, times: bool = True) -> None:
    """Give an open file the owner, mode, xattrs (ACL included) and times of another; what that one lacks is taken away.

    Raises OSError where one of them cannot be kept, for example an owner that this process may not give.
    """
    with _named(target_fd):
        source, target = os.fstat(source_fd), os.fstat(target_fd)
        if (source.st_uid, source.st_gid) != (target.st_uid, target.st_gid):
            os.fchown(target_fd, source.st_uid, source.st_gid)
        _copy_xattrs(source_fd, target_fd)
        # After the owner, whose change drops the setuid bits, and after the ACL, whose change may drop them, too.
        os.fchmod(target_fd, stat.S_IMODE(source.st_mode))
        if times:
            set_times(target_fd, source.st_atime_ns, source.st_mtime_ns)


def _copy_xattrs(source_fd: int, target_fd: int) -> None:
    wanted, present = xattrs(source_fd), xattrs(target_fd)
    for name in present.keys() - wanted.keys():
        os.removexattr(target_fd, name)  # for instance an ACL that the directory's default gave it
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(target_fd, name, value)


def xattrs(fd: int) -> dict[str, bytes]:
    """Every extended attribute that is the user's, not computed from content; empty where the filesystem has none."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {name: os.getxattr(fd, name) for name in names if name not in _CONTENT_XATTRS}


def set_times(fd: int, atime_ns: int, mtime_ns: int) -> None:
    """Set access and modification time, nanoseconds since 1970."""
    with _named(fd):
        os.utime(fd, ns=(atime_ns, mtime_ns))


def sha256_of(fd: int, *, evict: bool = False) -> bytes:
    """SHA-256 (32 bytes) of a whole open file, not moving its offset; with `evict` its pages leave the cache after."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASH_CHUNK))
    offset = 0
    with _named(fd):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := os.preadv(fd, [buffer], offset):
            digest.update(buffer[:count])
            offset += count
        if evict:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.digest()


def allocated_bytes(fd: int) -> int:
    """Bytes on disk, as `du` counts them."""
    return os.fstat(fd).st_blocks * 512


@contextmanager
def _named(fd: int) -> Iterator[None]:
    """Give an OSError of a descriptor the path it lacks."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, path_of(fd)) from error
