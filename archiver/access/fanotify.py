"""fanotify's permission events, as far as `archiver-recall` needs them: system calls, event buffers, answers.

See fanotify_init(2), fanotify_mark(2), fanotify(7). Numbers are pinned here: the kernel's interface never changes, and
libc's headers are often older than the kernel. FAN_PRE_ACCESS and FAN_DENY_ERRNO came with Linux 6.14.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from archiver.access.protocol import DENIALS, How

# fanotify_init
CLOEXEC = 0x00000001
NONBLOCK = 0x00000002
CLASS_PRE_CONTENT = 0x00000008
UNLIMITED_QUEUE = 0x00000010
UNLIMITED_MARKS = 0x00000020
REPORT_PIDFD = 0x00000080
REPORT_FD_ERROR = 0x00002000

# fanotify_mark
MARK_ADD = 0x00000001
MARK_REMOVE = 0x00000002
MARK_FLUSH = 0x00000080
MARK_FILESYSTEM = 0x00000100
MARK_EVICTABLE = 0x00000200
MARK_IGNORE = 0x00000400
MARK_IGNORED_SURV_MODIFY = 0x00000040

# events
Q_OVERFLOW = 0x00004000
OPEN_PERM = 0x00010000
PRE_ACCESS = 0x00100000
EVENT_ON_CHILD = 0x08000000
MASKS = {How.OPEN: OPEN_PERM, How.READ: PRE_ACCESS}

ALLOW = 0x01
DENY = 0x02
_ERRNO_SHIFT = 24
_INFO_PIDFD = 4
_METADATA_VERSION = 3

# event_len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd s32, pid s32
_METADATA = struct.Struct("=IBBHQii")
_INFO = struct.Struct("=BBH")  # info_type, pad, len
_RESPONSE = struct.Struct("=iI")
_BUFFER = 64 * 1024  # bytes; several hundred events

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)


class EventsMalformed(ValueError):
    """What was read from a group is no sequence of events of a known version."""


@dataclass(frozen=True, slots=True)
class Event:
    """One reader that waits.

    fd: the file, open for reading; a negative errno if it could not be opened (the kernel has then answered by itself).
    pid: the reader, 0 where it cannot be seen from here. pidfd: -1 if there is none.
    """

    fd: int
    pid: int
    mask: int
    pidfd: int = -1

    @property
    def overflow(self) -> bool:
        """True for the event that says that others were lost."""
        return bool(self.mask & Q_OVERFLOW)

    @property
    def how(self) -> How:
        """What the reader was doing."""
        return How.READ if self.mask & PRE_ACCESS else How.OPEN


def parse(data: bytes) -> Iterator[Event]:
    """The events in a buffer; records other than pidfds (ranges: hints only) are skipped.

    Raises EventsMalformed.
    """
    at = 0
    while at < len(data):
        if len(data) - at < _METADATA.size:
            raise EventsMalformed(f"{len(data) - at} bytes are left over")
        length, version, _, head, mask, fd, pid = _METADATA.unpack_from(data, at)
        if version != _METADATA_VERSION:
            raise EventsMalformed(f"version {version} of the event format")
        if not _METADATA.size <= head <= length <= len(data) - at:
            raise EventsMalformed(f"an event of {length} bytes with a head of {head}, of {len(data) - at}")
        yield Event(fd, pid, mask, _pidfd(data, at + head, at + length))
        at += length


def _pidfd(data: bytes, at: int, end: int) -> int:
    found = -1
    while at < end:
        if end - at < _INFO.size:
            raise EventsMalformed(f"{end - at} bytes of a record")
        kind, _, length = _INFO.unpack_from(data, at)
        if not _INFO.size <= length <= end - at:
            raise EventsMalformed(f"a record of {length} bytes, of {end - at}")
        if kind == _INFO_PIDFD and length >= _INFO.size + 4:
            (found,) = struct.unpack_from("=i", data, at + _INFO.size)
        at += length
    return max(found, -1)


def open_group() -> int:
    """A new group for permission events; non-blocking, close-on-exec.

    Event descriptors are opened for reading only: a reader may have come through a read-only mount, or the file may be
    running, and an open for writing that fails denies the read. They are opened without waiting, so that a file under
    a lease cannot stop the whole queue. The queue has no limit of its own: every event in it is a thread that waits.
    Raises PermissionError without CAP_SYS_ADMIN, OSError (EINVAL, ENOSYS) where the kernel cannot do it.
    """
    flags = CLASS_PRE_CONTENT | CLOEXEC | NONBLOCK | UNLIMITED_QUEUE | UNLIMITED_MARKS | REPORT_PIDFD
    event_flags = os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME
    group = _libc.fanotify_init(flags | REPORT_FD_ERROR, event_flags)
    if group < 0 and ctypes.get_errno() == errno.EINVAL:  # before Linux 6.13
        group = _libc.fanotify_init(flags, event_flags)
    return _checked(group, "fanotify_init")


def watch(group: int, directory: int, how: How) -> None:
    """Raise events for everything on the filesystem of an open directory.

    Raises OSError; EOPNOTSUPP or EINVAL where this kind of event is not to be had there.
    """
    _mark(group, MARK_ADD | MARK_FILESYSTEM, MASKS[how], directory)


def watch_children(group: int, directory: int, how: How) -> None:
    """Raise events for the files directly in an open directory. Raises OSError."""
    _mark(group, MARK_ADD, MASKS[how] | EVENT_ON_CHILD, directory)


def unwatch_all(group: int) -> None:
    """Take back every watch of a filesystem; ignore marks have no effect any more then. Raises OSError."""
    _mark(group, MARK_FLUSH | MARK_FILESYSTEM, 0, -1)


def ignore(group: int, file: int, how: How) -> None:
    """No more events of this kind for this open file, changed or not, while the kernel keeps its inode in memory.

    Of this kind alone: a mark that ignores reads makes every read look at it, and a filesystem or a kernel that cannot
    raise them refuses it. Raises OSError.
    """
    _mark(group, MARK_ADD | MARK_IGNORE | MARK_IGNORED_SURV_MODIFY | MARK_EVICTABLE, MASKS[how], file)


def forget(group: int, file: int) -> None:
    """Events for this open file again; none lost where it was not ignored. Raises OSError."""
    for how, mask in MASKS.items():
        try:
            _mark(group, MARK_REMOVE | MARK_IGNORE, mask, file)
        except FileNotFoundError:
            continue
        except OSError as error:
            # What cannot be raised there was never ignored.
            if how is not How.READ or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


def read_events(group: int) -> list[Event]:
    """The events that wait; empty if none do. Raises EventsMalformed, OSError."""
    try:
        data = os.read(group, _BUFFER)
    except BlockingIOError:
        return []
    return list(parse(data))


def respond(group: int, number: int, denial: int = 0) -> bool:
    """Let the reader whose event had this descriptor number go on, or fail with an errno.

    The number is all that counts: the descriptor may be closed, or another process's. A reader that was killed has to
    be answered, too, before its number is free. False when there is no such event. Raises OSError.
    """
    try:
        os.write(group, _RESPONSE.pack(number, response(denial)))
    except FileNotFoundError:
        return False
    except OSError as error:
        if not denial or error.errno != errno.EINVAL:
            raise
        # Before Linux 6.14 a denial is EPERM, whatever was asked for.
        os.write(group, _RESPONSE.pack(number, DENY))
    return True


def response(denial: int) -> int:
    """The kernel's code for an answer; what it would not take becomes EIO."""
    if not denial:
        return ALLOW
    code = denial if denial in DENIALS else errno.EIO
    return DENY | code << _ERRNO_SHIFT


def ability(group: int, directory: int) -> How:
    """What the filesystem of an open directory can raise; the group watches nothing afterwards that it did not before.

    Raises OSError (PermissionError without CAP_SYS_ADMIN).
    """
    for how in (How.READ, How.OPEN):
        try:
            _mark(group, MARK_ADD, MASKS[how], directory)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        else:
            _mark(group, MARK_REMOVE, MASKS[how], directory)
            return how
    return How.NOTHING


def filesystem_type(file: int) -> int:
    """The magic number of the filesystem of an open file. Raises OSError."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs is smaller; its first word is f_type
    _checked(_libc.fstatfs(file, buffer), "fstatfs")
    return int(ctypes.c_long.from_buffer(buffer).value) & 0xFFFFFFFF


def _mark(group: int, flags: int, mask: int, descriptor: int) -> None:
    _checked(_libc.fanotify_mark(group, flags, mask, descriptor, None), "fanotify_mark")


def _checked(result: int, call: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return result
