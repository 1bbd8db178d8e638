"""What the responder leaves behind when it dies: memory shared with the supervisor, and kept by systemd."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

LIMIT = 65536  # descriptors that the responder may have open
_BEAT = struct.Struct("=d")
_HIGHEST = struct.Struct("=I")
_HIGHEST_AT = 8
_WHO = struct.Struct("=IIQQ")  # waits, process, device, inode
_WHO_AT = 4096
_SIZE = _WHO_AT + LIMIT * _WHO.size


class Who(NamedTuple):
    """A process, and the file that it reads."""

    pid: int
    device: int
    inode: int


class Board:
    """A heartbeat, and for every descriptor number the reader behind it if that waits for a recall."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)

    @classmethod
    def create(cls) -> Board:
        """A new one, in memory that has no name."""
        fd = os.memfd_create("archiver-recall", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def beat(self) -> None:
        """The responder is alive."""
        _BEAT.pack_into(self._memory, 0, time.monotonic())

    def silence(self) -> float:
        """Seconds since the last beat."""
        return float(time.monotonic() - _BEAT.unpack_from(self._memory, 0)[0])

    def seen(self, number: int) -> None:
        """The kernel has used this descriptor number for an event."""
        if number > self._highest():
            _HIGHEST.pack_into(self._memory, _HIGHEST_AT, number)

    def waits(self, number: int, who: Who) -> None:
        """This reader, behind this number, waits for a recall."""
        _WHO.pack_into(self._memory, _WHO_AT + number * _WHO.size, 1, *who)

    def goes_on(self, number: int) -> None:
        """Nobody waits behind this number any more."""
        _WHO.pack_into(self._memory, _WHO_AT + number * _WHO.size, 0, 0, 0, 0)

    def unanswered(self) -> Iterator[tuple[int, Who | None]]:
        """Every number that may belong to an event that was read and never answered, with who waits for a recall.

        Some more than the highest: the responder may have died between reading events and saying so.
        """
        for number in range(min(self._highest() + 1024, LIMIT)):
            waits, *who = _WHO.unpack_from(self._memory, _WHO_AT + number * _WHO.size)
            yield number, Who(*who) if waits else None

    def _highest(self) -> int:
        return int(_HIGHEST.unpack_from(self._memory, _HIGHEST_AT)[0])
