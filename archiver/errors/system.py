"""Files, filesystems, permissions, the kernel."""

from __future__ import annotations

import errno

from archiver.errors.base import ArchiverError


class FileOpen(ArchiverError):
    """{path} is open"""

    exit_code = 7
    hint = "A file that somebody has open is left alone; `fuser -v FILE` shows who. It is tried again on the next run."


class LeaseUnsupported(ArchiverError):
    """{path}: its filesystem cannot tell whether a file is open (no leases)"""

    exit_code = 7
    hint = "Nothing can be released safely there: network filesystems and FUSE cannot. Run archiver where the disk is."


class WatchLimit(ArchiverError):
    """the kernel lets no more be watched: {setting} is {value}"""

    exit_code = 7
    hint = "Raise it with `sysctl`; until then changes in the other folders are found by the periodic scan."


class NotRegular(ArchiverError):
    """{path} is not a regular file"""

    exit_code = 7
    hint = "Symlinks, directories, pipes and devices are never touched."


class FileVanished(ArchiverError):
    """{path} is no longer there"""

    exit_code = 7
    hint = "It was moved or deleted meanwhile; the next scan sees where it went."


class DiskFull(ArchiverError):
    """{path}: no space left"""

    exit_code = 7
    hint = "Free some space (or quota) on that filesystem; nothing was changed."


class ReadOnlyFilesystem(ArchiverError):
    """{path}: the filesystem is read-only"""

    exit_code = 7
    hint = "The kernel may have made it so after an error: look at `dmesg`, then remount it."


class InputOutputError(ArchiverError):
    """{path}: the disk failed ({reason})"""

    exit_code = 7
    hint = "Look at `dmesg` and the disk's health before anything else."


class RecallUnreachable(ArchiverError):
    """archiver-recall does not answer at {path}"""

    exit_code = 7
    hint = "`systemctl status archiver-recall` says why; without it, readers of released files see the placeholder."


class DeskUnreachable(ArchiverError):
    """no daemon answers at {path} ({reason})"""

    exit_code = 7
    hint = "Recalls by readers are the work of the daemon: `archiver run`, or `systemctl start archiver`."


class AnotherRecall(ArchiverError):
    """another archiver-recall listens at {path}"""

    exit_code = 7
    hint = "One is enough for all tiers: `systemctl status archiver-recall`."


class WatchingRefused(ArchiverError):
    """the kernel does not let archiver-recall watch reads: {reason}"""

    exit_code = 7
    hint = "It takes root or CAP_SYS_ADMIN, outside of a container. `archiver mount` needs neither."


class PermissionRefused(ArchiverError):
    """{path}: permission denied ({reason})"""

    exit_code = 7
    hint = "The daemon needs to own the files or to run with the capabilities of its systemd unit."


class FuseMissing(ArchiverError):
    """FUSE cannot be used here: {reason}"""

    exit_code = 7
    hint = "`pip install 'archiver[fuse]'`, and libfuse 3: the Debian package libfuse3-3 (for users but root: fuse3)."


class MountRefused(ArchiverError):
    """{mountpoint}: {reason}"""

    exit_code = 2
    hint = "MOUNTPOINT is an empty folder outside of the tiers; `umount -l MOUNTPOINT` removes what a dead server left."


class MountFailed(ArchiverError):
    """{mountpoint}: cannot be mounted: {reason}"""

    exit_code = 7
    hint = "It needs /dev/fuse and the right to mount: in a container --device /dev/fuse --cap-add SYS_ADMIN."


class FolderOfAnother(ArchiverError):
    """{path} belongs to user {user}, neither to root nor to the one archiver runs as ({here})"""

    exit_code = 7
    hint = (
        "Whoever has it could read or swap what is kept there. After a `chown -R` of the tier: `chown root` this "
        "folder and those in it."
    )


class SystemRefused(ArchiverError):
    """{path}: {reason}"""

    exit_code = 7
    hint = "`archiver doctor` shows what this filesystem can do."


class CannotListen(ArchiverError):
    """cannot listen on {address}: {reason}"""

    exit_code = 7
    hint = "Another program may be there (`ss -ltnp` shows which), or the address is none of this machine's."


_BY_ERRNO: dict[int, type[ArchiverError]] = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EROFS: ReadOnlyFilesystem,
    errno.EIO: InputOutputError,
    errno.EUCLEAN: InputOutputError,
    errno.ENODEV: InputOutputError,
    errno.ESTALE: InputOutputError,
    errno.EACCES: PermissionRefused,
    errno.EPERM: PermissionRefused,
    errno.ENOENT: FileVanished,
    errno.ENOTDIR: FileVanished,
}


def from_os_error(error: OSError, path: object = None) -> ArchiverError:
    """What a user is told about an OSError; `path` where the error does not name one itself."""
    named = error.filename if error.filename is not None else path
    if isinstance(named, bytes):
        named = named.decode("utf-8", "surrogateescape")
    kind = _BY_ERRNO.get(error.errno or 0, SystemRefused)
    return kind(path=named, reason=error.strerror or str(error))
