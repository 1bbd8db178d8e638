"""A tier that is a directory tree: where it is, whether it is really there, what its filesystem can do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from archiver.catalog.rows import FileRow, Version
from archiver.config import LocalTierSettings
from archiver.errors import (
    ArchiverError,
    FileModified,
    FolderOfAnother,
    LeaseUnsupported,
    PermissionRefused,
    SystemRefused,
    TierUnreachable,
    from_os_error,
)
from archiver.mounts import mounts
from archiver.tiers import fileops
from archiver.tiers.listing import AREA
from archiver.tiers.own_reads import OwnReads
from archiver.tiers.protocol import Where

_TAGS = "user.xdg.tags"
_OWNER, _LONGEST_OWNER = "catalog", 64  # in our area; bytes
_FS_IOC_GETFSUUID = 0x80111500  # linux/fs.h, since Linux 6.9
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Identity:
    """Which folder of which filesystem a tier's root is, so that an unmounted disk is not taken for an empty one.

    `uuid` is empty where the kernel does not tell it (before Linux 6.9), `fsid` is what statvfs says, both in hex.
    """

    uuid: str
    fsid: str
    inode: int

    @classmethod
    def of(cls, fd: int) -> Identity:
        """The identity of an open directory."""
        stat, filesystem = os.fstat(fd), os.statvfs(fd)
        # XFS derives the fsid from the device number; where there is none, the device number has to do.
        return cls(_uuid(fd), f"{filesystem.f_fsid or stat.st_dev:x}", stat.st_ino)

    @classmethod
    def parse(cls, text: str) -> Identity:
        """The inverse of str()."""
        uuid, fsid, inode = text.split("/")
        return cls(uuid, fsid, int(inode))

    def __str__(self) -> str:
        return f"{self.uuid}/{self.fsid}/{self.inode}"

    def is_same(self, other: Identity) -> bool:
        """Whether both are one folder; the UUID decides where both kernels knew it."""
        if self.inode != other.inode:
            return False
        return self.uuid == other.uuid if self.uuid and other.uuid else self.fsid == other.fsid


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a filesystem; `free` is what users other than root may still take.

    files: how many more they may make there; None where the filesystem makes room for them as it goes (btrfs).
    """

    total: int
    free: int
    files: int | None = None

    @property
    def used_share(self) -> float:
        """0 empty .. 1 full, as `df` counts."""
        return 1.0 - self.free / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a tier's filesystem can do, tried out; releasing needs every one but `atime`."""

    filesystem: str  # "ext4", "xfs" ...; "" where /proc does not tell
    writable: bool
    xattr: bool
    lease: bool
    punch_hole: bool
    exchange: bool
    atime: bool  # False under noatime: only the watcher then knows of accesses


class LocalTier:
    """One configured tier, for any number of threads.

    Opened when first used. Nothing is held open after `close`, so that its disk can be unmounted: call it when no act
    is under way.
    """

    def __init__(self, settings: LocalTierSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.root = settings.path
        self._expected: Identity | None = None
        self._root_fd: int | None = None
        self._area_fds: dict[str, int] = {}
        self._opening = threading.RLock()
        self.own_reads = OwnReads()

    kind: Literal["local"] = "local"

    def where(self, relative: str) -> Path:
        """The full path of a file, or of the tier itself for ""."""
        return self.root / relative

    def relative(self, where: Where) -> str | None:
        """The inverse of `where`, "" for the tier itself; None for what lies elsewhere."""
        if not isinstance(where, Path):
            return None
        # The last component stays as it is: a symbolic link is not the file it points to.
        absolute = where.parent.resolve() / where.name if where.name not in ("", "..") else where.resolve()
        for root in (self.root, self.root.resolve()):  # the administrator's path may lead through a symbolic link
            if absolute.is_relative_to(root):
                relative = absolute.relative_to(root)
                return "" if relative == Path() else str(relative)
        return None

    # -- reachability --------------------------------------------------------------------------------------------------

    def expect(self, identity: str | None) -> None:
        """Tell what the catalog remembers as this tier's identity; None before the first scan."""
        self._expected = Identity.parse(identity) if identity else None

    @property
    def root_fd(self) -> int:
        """The root, open. Raises TierUnreachable."""
        with self._opening:
            if self._root_fd is None:
                self._root_fd = self._open_root()
            return self._root_fd

    def check(self) -> Identity:
        """Look again whether the tier's own folder stands at its path. Raises TierUnreachable."""
        fd = self._open_root()
        try:
            with self._opening:
                if self._root_fd is not None and not os.path.sameopenfile(self._root_fd, fd):
                    self._leave_the_other()
            return Identity.of(fd)
        except OSError as error:
            raise TierUnreachable(tier=self.name, reason=f"{self.root}: {error.strerror}") from error
        finally:
            os.close(fd)

    def _leave_the_other(self) -> None:
        """What is open stands no longer at the tier's path. Raises TierUnreachable, but before the first scan."""
        if self._expected is not None:
            # The same disk by its UUID, mounted anew after it was pulled out, or a copy of it. What is open cannot be
            # closed under the acts that use it.
            reason = f"what is mounted at {self.root} is not what is in use; a daemon changes over when it is reloaded"
            raise TierUnreachable(tier=self.name, reason=reason)
        self.close()  # the disk may be mounted over what was opened

    def _open_root(self) -> int:
        try:
            # The root itself may be a symlink: the path is the administrator's, not a user's.
            fd = os.open(self.root, _OPEN_DIRECTORY)
        except OSError as error:
            raise TierUnreachable(tier=self.name, reason=f"{self.root}: {error.strerror}") from error
        try:
            found = Identity.of(fd)
            if self._expected is not None and not found.is_same(self._expected):
                raise TierUnreachable(tier=self.name, reason=f"another folder or filesystem stands at {self.root}")
        except OSError as error:  # a dead network mount answers open from its cache
            os.close(fd)
            raise TierUnreachable(tier=self.name, reason=f"{self.root}: {error.strerror}") from error
        except ArchiverError:
            os.close(fd)
            raise
        return fd

    def close(self) -> None:
        """Let go of every descriptor; the next use opens them again."""
        with self._opening:
            for fd in (*self._area_fds.values(), *([] if self._root_fd is None else [self._root_fd])):
                os.close(fd)
            self._area_fds.clear()
            self._root_fd = None

    # -- looking into files --------------------------------------------------------------------------------------------

    def tags(self, row: FileRow) -> frozenset[str]:
        """The comma-separated words of its xattr user.xdg.tags. Raises ArchiverError where it cannot be read."""
        with self._opened(row) as fd:
            try:
                raw = os.getxattr(fd, _TAGS)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                    raise
                return frozenset()
        words = (word.strip() for word in raw.decode("utf-8", "replace").split(","))
        return frozenset(word for word in words if word)

    @contextmanager
    def peek(self, row: FileRow) -> Iterator[BinaryIO]:
        """A file open for reading its header, leaving no trace. Raises FileModified, PermissionRefused and others."""
        with self._opened(row) as fd:
            if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NOATIME:
                reason = "it belongs to somebody else, and reading it would count as opening it"
                raise PermissionRefused(path=self.where(row.path), reason=reason)
            with os.fdopen(fd, "rb", closefd=False) as reader:
                yield reader

    @contextmanager
    def _opened(self, row: FileRow) -> Iterator[int]:
        path = self.where(row.path)
        try:
            directory_fd = fileops.open_directory(self.root_fd, row.directory)
            try:
                fd = fileops.open_file(directory_fd, row.name)
            finally:
                os.close(directory_fd)
            try:
                stat = os.fstat(fd)
                if Version(stat.st_size, stat.st_mtime_ns, stat.st_ino) != row.version:
                    raise FileModified(path=path, state="scanned")
                yield fd
            finally:
                os.close(fd)
        except OSError as error:
            raise from_os_error(error, path) from error

    # -- our own area --------------------------------------------------------------------------------------------------

    def has_area(self) -> bool:
        """Whether `.archiver` is there. Raises TierUnreachable."""
        try:
            os.stat(AREA, dir_fd=self.root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @property
    def area_fd(self) -> int:
        """`.archiver`, open; made (mode 0700) when first needed.

        Raises TierUnreachable, FolderOfAnother, SystemRefused, OSError.
        """
        return self._own_directory(AREA, lambda: self.root_fd)

    @property
    def holding_fd(self) -> int:
        """`.archiver/holding`, open: originals in their grace period, and placeholders being written."""
        return self._own_directory("holding", lambda: self.area_fd)

    @property
    def journal_fd(self) -> int:
        """`.archiver/journal`, open: one entry, named `<inode in hex>-...`, for every act under way."""
        return self._own_directory("journal", lambda: self.area_fd)

    def owner(self) -> str:
        """The identity of the catalog that it is archived with, "" before the first release.

        Raises TierUnreachable, OSError.
        """
        try:
            fd = fileops.open_directory(self.root_fd, AREA)
        except FileNotFoundError:
            return ""
        try:
            with os.fdopen(fileops.open_file(fd, _OWNER), "rb") as file:
                return file.read(_LONGEST_OWNER).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        finally:
            os.close(fd)

    def own(self, catalog: str, *, instead: bool = False) -> None:
        """Say durably which catalog it is archived with: where nobody said so yet, or `instead` of who did.

        Raises TierUnreachable, FolderOfAnother, SystemRefused, OSError.
        """
        temporary = f".{_OWNER}-{os.getpid()}.part"
        with os.fdopen(fileops.open_file(self.area_fd, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(f"{catalog}\n".encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        if instead:
            os.rename(temporary, _OWNER, src_dir_fd=self.area_fd, dst_dir_fd=self.area_fd)
        else:
            try:
                fileops.rename_noreplace(self.area_fd, temporary, self.area_fd, _OWNER)
            except FileExistsError:  # another process was faster
                os.unlink(temporary, dir_fd=self.area_fd)
        fileops.fsync_directory(self.area_fd)

    def inodes_under_way(self) -> frozenset[int]:
        """Inodes of the files that an act of some process is changing right now. Raises TierUnreachable, OSError."""
        try:
            fd = fileops.open_directory(self.root_fd, f"{AREA}/journal")
        except FileNotFoundError:
            return frozenset()
        try:
            return frozenset(int(name.partition("-")[0], 16) for name in os.listdir(fd) if not name.startswith("."))
        finally:
            os.close(fd)

    def _own_directory(self, name: str, parent: Callable[[], int]) -> int:
        with self._opening:
            if name not in self._area_fds:
                self._area_fds[name] = _make_own_directory(parent(), name)
            return self._area_fds[name]

    # -- the filesystem ------------------------------------------------------------------------------------------------

    def space(self) -> Space:
        """Free and total bytes, and files that can still be made. Raises TierUnreachable."""
        found = os.statvfs(self.root_fd)
        files = found.f_favail if found.f_files else None
        return Space(total=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize, files=files)

    def keeps_atime(self) -> bool:
        """Whether reading a file moves its access time, if only once a day (relatime). Raises TierUnreachable."""
        return not os.statvfs(self.root_fd).f_flag & (os.ST_NOATIME | os.ST_RDONLY)

    def probe(self) -> Abilities:
        """Try the filesystem out with two scratch files in our area. Raises TierUnreachable, OSError."""
        kind, atime = _filesystem_type(self.root_fd), self.keeps_atime()
        if os.statvfs(self.root_fd).f_flag & os.ST_RDONLY:
            return Abilities(kind, False, False, False, False, False, atime)
        names = [f"probe-{os.getpid()}-{letter}" for letter in "ab"]
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fds = [fileops.open_file(self.area_fd, name, flags) for name in names]
        try:
            return Abilities(
                filesystem=kind,
                writable=True,
                xattr=_can(lambda: os.setxattr(fds[0], "user.archiver.probe", b"1")),
                lease=_can(lambda: self._try_lease(fds[0], names[0])),
                punch_hole=_can(lambda: _try_punch(fds[0])),
                exchange=_can(lambda: fileops.exchange(self.area_fd, names[0], self.area_fd, names[1])),
                atime=atime,
            )
        finally:
            for fd, name in zip(fds, names, strict=True):
                os.close(fd)
                os.unlink(name, dir_fd=self.area_fd)

    def _try_lease(self, fd: int, name: str) -> None:
        with fileops.write_lease(fd, self.root / AREA / name):
            pass


def _make_own_directory(parent_fd: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        os.fsync(parent_fd)
    fd = fileops.open_directory(parent_fd, name)
    found, parent = os.fstat(fd), os.fstat(parent_fd)
    problem: ArchiverError | None = None
    if found.st_uid not in (0, os.geteuid()):
        # Somebody who may write to the tier could have made it first, to read or swap what is kept there.
        problem = FolderOfAnother(path=fileops.path_of(fd), user=found.st_uid, here=os.geteuid())
    elif found.st_dev != parent.st_dev:
        problem = SystemRefused(path=fileops.path_of(fd), reason="it is on another filesystem than the tier")
    if problem is not None:
        os.close(fd)
        raise problem
    if found.st_mode & 0o077:
        os.fchmod(fd, 0o700)
    if found.st_uid != 0:
        # The daemon is a user of its own, the command line is root: where it can be given away, root has it for both.
        with contextlib.suppress(PermissionError):
            os.fchown(fd, 0, 0)
    return fd


def _uuid(fd: int) -> str:
    answer = bytearray(17)  # struct fsuuid2: length, then the UUID
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFSUUID, answer)
    except OSError:
        return ""  # an older kernel, or a filesystem without one: the fsid decides
    uuid = bytes(answer[1 : 1 + answer[0]])
    return uuid.hex() if any(uuid) else ""


def _filesystem_type(fd: int) -> str:
    """ "ext4", "xfs" ... from /proc, by the number of the mount that `fd` was opened through."""
    with contextlib.suppress(FileNotFoundError):
        facts = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
        number = facts[facts.index("mnt_id:") + 1]
        return next((mount.kind for mount in mounts() if mount.number == int(number)), "")
    return ""


def _try_punch(fd: int) -> None:
    os.pwrite(fd, bytes(8192), 0)
    fileops.punch(fd, 4096, 4096)


def _can(attempt: Callable[[], None]) -> bool:
    """Whether the filesystem knows an operation; failures of any other kind (a full disk) are raised."""
    try:
        attempt()
    except LeaseUnsupported:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True
