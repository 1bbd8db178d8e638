"""What `archiver-recall` and the other archiver processes say to each other: typed messages <-> packets.

A Unix SOCK_SEQPACKET socket ([recall] socket, by default /run/archiver/recall.sock), one message a packet.
`archiver-recall` listens, for it is the longer lived one; everybody else uses `archiver.access.client`. Descriptors
travel beside a message (SCM_RIGHTS); whoever receives one closes it.

    client                         archiver-recall
    Hello(role)               ->
                              <-   Welcome()                 from now on reads and writes of this process pass at once
    Watch(id) + fd            ->                             desk only; fd: a tier's root, opened O_RDONLY | O_DIRECTORY
                              <-   Watched(id, how, errno)   its whole filesystem is watched; errno says why not
                              <-   Ask(id, pid, kind, left_ms) + fd [+ pidfd]
    Answer(id, errno)         ->                             0: let the reader go on with what now stands in the file
                              <-   Withdrawn(id)             nobody waits for this answer any more (deadline, shutdown)
    Forget(id) + fd           ->                             this file is no longer known to be resident
                              <-   Forgotten(id, errno)

*Ask*. `fd` is the file, open for reading and writing, on the tier's own mount where a root of its filesystem was sent:
fill it by `pwrite` and never `ftruncate` it. Reads and writes through it raise no question, because the asker's whole
process is let through; a child process of it is not, unless it says Hello itself. `pid` is the reader in the process
namespace of `archiver-recall`, and 0 if it lives in none that can be seen; `pidfd` is there if it could be had.
`left_ms` is how long the reader will wait before it is answered without the desk ([recall] on_failure). A desk that
reconnects is asked again, with the same id, for all readers that still wait; so are several readers of one file, each
with an id of its own. An Answer for an id that nobody waits for is ignored.

There is one desk at a time, the first that came; another one's connection is closed until that has gone.

*Answer*. errno is one of `DENIALS`; anything else is taken as EIO. With 0, a file that is still a placeholder is given
to this process as it is for a while without asking again.

*Forget*. The kernel keeps no watch over files that were found resident. One that becomes a placeholder again in the
same inode must be forgotten, or its readers are never noticed. The order that leaves no gap, and raises no event under
the lease (opening the event's descriptor would wait for the lease to be broken):

    read a byte of it  ->  write lease  ->  head, punch, times  ->  Forget, wait for Forgotten  ->  lease given back

A settled crash in between forgets as well.

Versions: a packet starts with `VERSION`; another one is refused (ProtocolError) and the connection closed. Client and
server are installed together, so there is no negotiation.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
MAX_PACKET = 64  # bytes
MAX_DESCRIPTORS = 2
# What the kernel lets a reader be answered with (fanotify, FAN_DENY_ERRNO).
DENIALS = frozenset((errno.EPERM, errno.EIO, errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT))


class ProtocolError(ValueError):
    """A packet that is none of ours; the connection it came from is closed."""


class Role(IntEnum):
    """What a client is: the desk answers questions, a tool only wants to be let through."""

    DESK = 1
    TOOL = 2


class How(IntEnum):
    """What raises a question on a filesystem."""

    NOTHING = 0
    OPEN = 1  # FAN_OPEN_PERM: opening a file
    READ = 2  # FAN_PRE_ACCESS: reading or writing it


@dataclass(frozen=True, slots=True)
class Hello:
    """Client: who I am. The first message of a connection."""

    role: Role


@dataclass(frozen=True, slots=True)
class Welcome:
    """Server: taken in; this process is let through from now on."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Server: somebody waits for a released file. Comes with its descriptor and, if it could be had, a pidfd."""

    id: int
    pid: int
    kind: How
    left_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Desk: let the reader go on (0) or fail with one of `DENIALS`."""

    id: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Server: that question is settled without you."""

    id: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Desk: watch the filesystem of the directory that comes along."""

    id: int


@dataclass(frozen=True, slots=True)
class Watched:
    """Server: it is watched, or not, for the reason of errno."""

    id: int
    how: How
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Forget:
    """Client: the file that comes along is about to be released again."""

    id: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Server: its next reader raises a question again; errno is 0 unless the kernel refused."""

    id: int
    errno: int = 0


Message = Hello | Welcome | Ask | Answer | Withdrawn | Watch | Watched | Forget | Forgotten


@dataclass(frozen=True, slots=True)
class _Form:
    """How one message is laid out: its fields in order, and the least and most descriptors that travel with it."""

    kind: type[Message]
    layout: struct.Struct
    least: int = 0
    most: int = 0


_HEAD = struct.Struct("=BB")  # version, number of the form
_FORMS: dict[int, _Form] = {
    1: _Form(Hello, struct.Struct("=B")),
    2: _Form(Welcome, struct.Struct("=")),
    3: _Form(Ask, struct.Struct("=QIBI"), 1, 2),
    4: _Form(Answer, struct.Struct("=QI")),
    5: _Form(Withdrawn, struct.Struct("=Q")),
    6: _Form(Watch, struct.Struct("=Q"), 1, 1),
    7: _Form(Watched, struct.Struct("=QBI")),
    8: _Form(Forget, struct.Struct("=Q"), 1, 1),
    9: _Form(Forgotten, struct.Struct("=QI")),
}
_NUMBERS = {form.kind: number for number, form in _FORMS.items()}


def encode(message: Message) -> bytes:
    """The packet of a message."""
    number = _NUMBERS[type(message)]
    values = (getattr(message, name) for name in message.__dataclass_fields__)
    return _HEAD.pack(VERSION, number) + _FORMS[number].layout.pack(*values)


def decode(packet: bytes, descriptors: int = 0) -> Message:
    """The message in a packet that came with so many descriptors. Raises ProtocolError for everything else."""
    if len(packet) < _HEAD.size:
        raise ProtocolError(f"a packet of {len(packet)} bytes")
    version, number = _HEAD.unpack_from(packet)
    if version != VERSION:
        raise ProtocolError(f"version {version}, and this is {VERSION}")
    form = _FORMS.get(number)
    if form is None:
        raise ProtocolError(f"message {number} is unknown")
    if len(packet) != _HEAD.size + form.layout.size:
        raise ProtocolError(f"{form.kind.__name__} of {len(packet)} bytes")
    if not form.least <= descriptors <= form.most:
        raise ProtocolError(f"{form.kind.__name__} with {descriptors} descriptors")
    return _build(form, form.layout.unpack_from(packet, _HEAD.size))


def _build(form: _Form, values: tuple[int, ...]) -> Message:
    try:
        if form.kind is Hello:
            return Hello(Role(values[0]))
        if form.kind is Ask:
            return Ask(values[0], values[1], How(values[2]), values[3])
        if form.kind is Watched:
            return Watched(values[0], How(values[1]), values[2])
    except ValueError as error:
        raise ProtocolError(str(error)) from None
    return form.kind(*values)  # type: ignore[arg-type]


def connection() -> socket.socket:
    """A socket of the right kind, not connected."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(peer: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors are copied and stay the caller's.

    Raises BlockingIOError from a non-blocking socket whose peer does not read, OSError when the peer is gone.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    peer.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)


def receive(peer: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors, which are the caller's to close; None when the peer has gone.

    Raises ProtocolError (descriptors that came along are closed), BlockingIOError, OSError.
    """
    size = array.array("i").itemsize
    # Room for more than is allowed: what does not fit would be cut off silently, but for a flag.
    room = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS * size)
    packet, ancillary, flags, _ = peer.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % size])
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("a packet too large")
        if not packet and not descriptors:
            return None
        return decode(packet, len(descriptors)), descriptors.tolist()
    except ProtocolError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
