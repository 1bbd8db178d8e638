"""What the responder leaves behind when it dies: memory shared with the supervisor, and kept by systemd."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator

LIMIT = 65536  # descriptors that the responder may have open
_BEAT = struct.Struct("=d")
_HIGHEST = struct.Struct("=I")
_HIGHEST_AT = 8
_FLAGS_AT = 4096
_SIZE = _FLAGS_AT + LIMIT


class Board:
    """A heartbeat, and a flag for every descriptor number whose reader waits for a recall."""

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

    def waits(self, number: int, waiting: bool) -> None:
        """The reader behind this number waits for a recall, or does not any more."""
        self._memory[_FLAGS_AT + number] = waiting

    def numbers(self) -> Iterator[tuple[int, bool]]:
        """Every number that an event may have that was read and not answered, and whether it waited for a recall.

        Some more than the highest: the responder may have died between reading events and saying so.
        """
        for number in range(min(self._highest() + 1024, LIMIT)):
            yield number, bool(self._memory[_FLAGS_AT + number])

    def clear(self) -> None:
        """Nobody waits."""
        self._memory[_FLAGS_AT:_SIZE] = bytes(LIMIT)

    def _highest(self) -> int:
        return int(_HIGHEST.unpack_from(self._memory, _HIGHEST_AT)[0])
