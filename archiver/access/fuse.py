"""`archiver mount`: a folder seen through FUSE, where reading a released file generates its image.

Everything else is passed on to the folder as it is. A request is one call of a method here, in a thread of libfuse;
one that has to wait for an image waits in its own, and the others go on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from archiver import formats
from archiver.access import fuse_binding, fuse_caller
from archiver.access.fuse_binding import FileInfo
from archiver.errors import ArchiverError, MountFailed
from archiver.formats.envelope import MAGIC
from archiver.tiers.listing import AREA

# Bits of open(2) that were the kernel's to handle, or would ask for aligned buffers below.
_NOT_PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_DIRECT
_LOOK_AGAIN = 0.25  # seconds until a waiting request looks whether its reader was killed
_KEPT_WAITING = 1000  # reads that may wait at a time; the kernel's own limit of 12 would stop all other reads
_ACL_DEFAULT = "system.posix_acl_default"


class Question(Protocol):
    """Somebody waits for an image."""

    def answer(self, patience: float) -> int | None:
        """0 (go on with what stands there now) or an error number; None if that is not known within `patience` s."""
        ...

    def withdraw(self) -> None:
        """Nobody waits any more."""
        ...


class Recalls(Protocol):
    """Who generates images."""

    def ask(self, fd: int, pid: int) -> Question:
        """Have the image of a placeholder put in its place. fd: open for reading and writing, given away. pid: the
        reader.
        """
        ...


class Mirror:
    """A folder and what is done to it; see fuse_binding.Operations for the methods."""

    use_ns = True

    def __init__(self, source: Path, tiers: list[Path], recalls: Recalls, ready: Callable[[], None]) -> None:
        self._root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._recalls = recalls
        self._ready = ready
        # Tiers that cannot be reached now have no area that could be seen.
        self._tier_roots = {_identity(os.stat(path)) for path in tiers if path.is_dir()}
        self._devices = {os.fstat(self._root).st_dev: 0}
        self._unread: set[int] = set()  # open files that may still be placeholders
        self._impersonates = fuse_caller.can_impersonate()

    # -- the mount itself ----------------------------------------------------------------------------------------------

    def init_with_config(self, connection: Any, config: Any) -> None:
        """What is asked of kernel and library."""
        want = fuse_binding.CAP_SPLICE_WRITE | fuse_binding.CAP_SPLICE_MOVE
        want |= fuse_binding.CAP_DONT_MASK | fuse_binding.CAP_POSIX_ACL
        # libfuse would look up each name as the kernel would; and each read would ask for the time of the last change.
        leave = fuse_binding.CAP_READDIRPLUS | fuse_binding.CAP_AUTO_INVAL_DATA
        connection.want = (connection.want | want & connection.capable) & ~leave
        connection.max_background, connection.congestion_threshold = _KEPT_WAITING, _KEPT_WAITING * 3 // 4
        config.use_ino = 1
        config.nullpath_ok = 1
        # Two names of one file are two files to libfuse: attributes kept for one would miss what the other did.
        config.attr_timeout, config.entry_timeout, config.negative_timeout = 0.0, 1.0, 0.0
        os.umask(0)  # the caller's counts
        self._ready()

    def destroy(self, _path: str) -> None:
        """The mount is gone."""
        os.close(self._root)

    def statfs(self, _path: str) -> dict[str, int]:
        found = os.fstatvfs(self._root)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    # -- names ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _folder(self, path: str, *, making: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder that `path` lies in, and its name there; our own area is not there for anybody."""
        if AREA in path and self._in_area(path):
            if making:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        above, _, name = path.rpartition("/")
        if not above:
            yield self._root, name or "."
            return
        fd = fuse_caller.open_folder(self._root, above[1:])
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _in_area(self, path: str) -> bool:
        parts = path.split("/")[1:]
        for depth in (number for number, part in enumerate(parts) if part == AREA):
            fd = fuse_caller.open_folder(self._root, "/".join(parts[:depth]) or ".")
            try:
                if _identity(os.fstat(fd)) in self._tier_roots:
                    return True
            finally:
                os.close(fd)
        return False

    @contextmanager
    def _caller(self) -> Iterator[None]:
        """Act as the caller."""
        uid, gid, _, _ = fuse_binding.caller()
        if not self._impersonates or (uid, gid) == (0, 0):
            yield
        else:
            with fuse_caller.acting_as(uid, gid, fuse_binding.caller_groups()):
                yield

    @contextmanager
    def _at(self, path: str, *, making: bool = False) -> Iterator[tuple[int, str]]:
        """`_folder`, acting as the caller."""
        with self._caller(), self._folder(path, making=making) as place:
            yield place

    # -- attributes ----------------------------------------------------------------------------------------------------

    def getattr(self, path: str | None, fh: int | None) -> os.stat_result:
        if fh is not None:
            return self._numbered(os.fstat(fh))
        assert path is not None
        with self._folder(path) as (folder, name):
            return self._numbered(os.stat(name, dir_fd=folder, follow_symlinks=False))

    def _numbered(self, found: os.stat_result) -> os.stat_result:
        """Inode numbers of different filesystems (or btrfs subvolumes) below the folder are kept apart."""
        device = self._devices.setdefault(found.st_dev, len(self._devices))
        if device == 0:
            return found
        return os.stat_result((found[0], found[1] ^ device << 48, *found[2:]), _more(found))

    def chmod(self, path: str | None, mode: int, fh: int | None) -> None:
        if path is None:
            assert fh is not None
            with self._caller():
                os.fchmod(fh, stat.S_IMODE(mode))
            return
        with self._at(path) as (folder, name):
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            with self._caller() if not self._only_drops_set_id(fd, mode) else nullcontext():
                Path(f"/proc/self/fd/{fd}").chmod(stat.S_IMODE(mode))
        finally:
            os.close(fd)

    @staticmethod
    def _only_drops_set_id(fd: int, mode: int) -> bool:
        """What the kernel asks in the name of somebody who wrote to the file and need not own it."""
        bits = stat.S_ISUID | stat.S_ISGID
        now = stat.S_IMODE(os.fstat(fd).st_mode)
        return now != stat.S_IMODE(mode) and now & ~bits == stat.S_IMODE(mode) & ~bits and not mode & bits & ~now

    def chown(self, path: str | None, uid: int, gid: int, fh: int | None) -> None:
        if path is None:
            assert fh is not None
            with self._caller():
                os.fchown(fh, uid, gid)
            return
        with self._at(path) as (folder, name):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)

    def utimens(self, path: str | None, fh: int | None, times: tuple[fuse_caller.Time, fuse_caller.Time]) -> None:
        if path is None:
            assert fh is not None
            with self._caller():
                fuse_caller.set_open_times(fh, times)
            return
        with self._at(path) as (folder, name):
            fuse_caller.set_times(folder, name, times)

    def getxattr(self, path: str, name: str) -> bytes:
        with self._folder(path) as (folder, entry):
            return os.getxattr(f"/proc/self/fd/{folder}/{entry}", name, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        with self._folder(path) as (folder, entry):
            return os.listxattr(f"/proc/self/fd/{folder}/{entry}", follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, options: int) -> None:
        with self._at(path) as (folder, entry):
            os.setxattr(f"/proc/self/fd/{folder}/{entry}", name, value, options, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        with self._at(path) as (folder, entry):
            os.removexattr(f"/proc/self/fd/{folder}/{entry}", name, follow_symlinks=False)

    def readlink(self, path: str) -> str:
        with self._folder(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    # -- folders -------------------------------------------------------------------------------------------------------

    def opendir(self, path: str) -> int:
        with self._at(path) as (folder, name):
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)

    def readdir(self, _path: None, fh: int) -> Iterator[tuple[str, int, int]]:
        own = self._numbered(os.fstat(fh))
        yield ".", stat.S_IFDIR, own.st_ino
        yield "..", stat.S_IFDIR, 0
        hides = _identity(os.fstat(fh)) in self._tier_roots
        device = self._devices[os.fstat(fh).st_dev]
        with os.scandir(fh) as entries:
            for entry in entries:
                if not (hides and entry.name == AREA):
                    yield entry.name, _kind(entry), entry.inode() ^ device << 48

    def releasedir(self, _path: None, fh: int) -> None:
        os.close(fh)

    def fsyncdir(self, _path: None, _datasync: int, fh: int) -> None:
        os.fsync(fh)

    def mkdir(self, path: str, mode: int) -> None:
        with self._at(path, making=True) as (folder, name):
            os.mkdir(name, _masked(folder, mode), dir_fd=folder)

    def mknod(self, path: str, mode: int, device: int) -> None:
        with self._at(path, making=True) as (folder, name):
            os.mknod(name, _masked(folder, mode), device, dir_fd=folder)

    def symlink(self, path: str, points_to: str) -> None:
        with self._at(path, making=True) as (folder, name):
            os.symlink(points_to, name, dir_fd=folder)

    def link(self, path: str, existing: str) -> None:
        with self._at(existing) as (from_folder, from_name), self._folder(path, making=True) as (folder, name):
            os.link(from_name, name, src_dir_fd=from_folder, dst_dir_fd=folder, follow_symlinks=False)

    def rename(self, old: str, new: str, flags: int) -> None:
        with self._at(old) as (old_folder, old_name), self._folder(new, making=True) as (new_folder, new_name):
            fuse_caller.rename(old_folder, old_name, new_folder, new_name, flags)

    def unlink(self, path: str) -> None:
        with self._at(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def rmdir(self, path: str) -> None:
        with self._at(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    # -- files ---------------------------------------------------------------------------------------------------------

    def open(self, path: str, fi: FileInfo) -> None:
        flags = fi.flags & ~_NOT_PASSED_ON | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._at(path) as (folder, name):
            fi.fh = os.open(name, flags, dir_fd=folder)
        self._unread.add(fi.fh)

    def create(self, path: str, mode: int, fi: FileInfo) -> None:
        flags = fi.flags & ~_NOT_PASSED_ON | fi.flags & os.O_EXCL | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._at(path, making=True) as (folder, name):
            fi.fh = os.open(name, flags, _masked(folder, mode), dir_fd=folder)
        self._unread.add(fi.fh)

    def release(self, _path: None, fi: FileInfo) -> None:
        self._unread.discard(fi.fh)
        os.close(fi.fh)

    def fsync(self, _path: None, datasync: int, fi: FileInfo) -> None:
        (os.fdatasync if datasync else os.fsync)(fi.fh)

    def before_read(self, fh: int) -> None:
        if fh in self._unread:
            self._recall(fh)
            self._unread.discard(fh)

    @contextmanager
    def _changing(self, fh: int) -> Iterator[None]:
        """Write to an open file: whole images only, and set-id bits fall as they do for the caller."""
        if fh in self._unread:
            self._recall(fh)
            if _is_placeholder(fh):
                raise OSError(errno.EIO, "half a placeholder and half something else would be neither")
            self._unread.discard(fh)
        if os.fstat(fh).st_mode & (stat.S_ISUID | stat.S_ISGID):
            with self._caller():
                yield
        else:
            yield

    def read_buf(self, *_args: Any) -> None:
        """Its being here makes the binding reply from the descriptor, after before_read."""

    def write(self, _path: None, data: bytes, offset: int, fi: FileInfo) -> int:
        with self._changing(fi.fh):
            return os.pwrite(fi.fh, data, offset)

    def truncate(self, path: str | None, length: int, fh: int | None) -> None:
        if fh is not None:
            self._truncate(fh, length)
            return
        assert path is not None
        with self._at(path) as (folder, name):
            fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            self._unread.add(fd)
            self._truncate(fd, length)
        finally:
            self._unread.discard(fd)
            os.close(fd)

    def _truncate(self, fd: int, length: int) -> None:
        if length == 0:
            self._unread.discard(fd)  # nothing of it is left that had to be recalled
        with self._changing(fd):
            os.ftruncate(fd, length)

    def fallocate(self, _path: None, mode: int, offset: int, size: int, fi: FileInfo) -> None:
        with self._changing(fi.fh):
            fuse_caller.allocate(fi.fh, mode, offset, size)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE. The hole of a placeholder is not one: tools that skip it would copy zeros."""
        if fh in self._unread and _is_placeholder(fh):
            size = os.fstat(fh).st_size
            if not 0 <= offset < size:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return offset if whence == os.SEEK_DATA else size
        return os.lseek(fh, offset, whence)

    def copy_file_range(self, fh_in: int, at_in: int, fh_out: int, at_out: int, size: int) -> int:
        self.before_read(fh_in)
        with self._changing(fh_out):
            return os.copy_file_range(fh_in, fh_out, size, at_in, at_out)

    # -- recall --------------------------------------------------------------------------------------------------------

    def _recall(self, fh: int) -> None:
        """Wait until a placeholder was answered for. Raises OSError: the answer, or EINTR when nobody waits."""
        if not _is_placeholder(fh):
            return
        try:
            fd = os.open(f"/proc/self/fd/{fh}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            return  # nothing can be put there: readers see the placeholder
        _, _, pid, _ = fuse_binding.caller()
        question = self._recalls.ask(fd, pid)
        while (code := question.answer(_LOOK_AGAIN)) is None:
            if fuse_binding.given_up():
                question.withdraw()
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        if code:
            raise OSError(code, os.strerror(code))


def _is_placeholder(fh: int) -> bool:
    """Whether an open file, readable or not, is one that can be recalled: one that is damaged is what it is."""
    head = _head(fh)
    if MAGIC not in head:
        return False
    try:
        envelope = formats.read_envelope(BytesIO(head))
    except ArchiverError:
        return False
    return envelope is not None and envelope.kind is formats.Kind.PLACEHOLDER


def _head(fh: int) -> bytes:
    try:
        return os.pread(fh, formats.BLOCK, 0)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    fd = os.open(f"/proc/self/fd/{fh}", os.O_RDONLY | os.O_CLOEXEC)  # it is open for writing only
    try:
        return os.pread(fd, formats.BLOCK, 0)
    finally:
        os.close(fd)


def _masked(folder: int, mode: int) -> int:
    """The mode of a new file: the caller's umask counts unless the folder has a default ACL."""
    try:
        os.getxattr(f"/proc/self/fd/{folder}", _ACL_DEFAULT)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        _, _, _, umask = fuse_binding.caller()
        return mode & ~umask
    return mode


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _more(found: os.stat_result) -> dict[str, object]:
    return {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}


def serve(mirror: Mirror, source: Path, mountpoint: Path, *, allow_other: bool = False) -> None:
    """Mount and answer until unmounted, or told to end by SIGINT or SIGTERM; from the main thread only.

    Raises MountFailed.
    """
    options: dict[str, str | bool] = {
        "fsname": str(source).replace("\\", "\\\\").replace(",", "\\,"),
        "subtype": "archiver",
        "default_permissions": True,
        "allow_other": allow_other,
    }
    if fuse_binding.VERSION >= (3, 12):  # before it there was no limit
        options["max_threads"], options["max_idle_threads"] = str(2 * _KEPT_WAITING), "10"
    try:
        fuse_binding.Channel(mirror, str(mountpoint), options)
    except RuntimeError as error:
        if error.args != (fuse_binding.ENDED_BY_SIGNAL,):
            raise MountFailed(mountpoint=mountpoint, reason=f"libfuse gave up with {error}, see above") from error
