"""What the processes of `archiver-recall` are given to work with."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from archiver.access import fanotify
from archiver.access.protocol import How

_BTRFS = 0x9123683E


@dataclass(frozen=True, slots=True)
class Terms:
    """What a reader may count on; [recall] in the configuration.

    deadline: seconds until every reader is answered. refuse: without a desk it gets an error, not the placeholder.
    hows: what to watch by, the best first. reconnect: seconds it waits for a desk that is not there. farewell: seconds
    for those who wait when we are stopped. hung: seconds without a sign of life after which a responder is replaced.
    """

    deadline: float
    refuse: bool = False
    hows: tuple[How, ...] = (How.READ, How.OPEN)
    reconnect: float = 15.0
    farewell: float = 20.0
    hung: float = 10.0

    def denial(self, pid: int) -> int:
        """The errno for a reader that nobody can recall its file for; 0: the placeholder."""
        return suited(errno.EIO, pid) if self.refuse else 0


@dataclass(frozen=True, slots=True)
class Groups:
    """Two groups of watches.

    kept: of filesystems that hold nothing but tiers; systemd keeps it when we die, and readers wait for our successor.
    own: of filesystems that also hold what a successor needs to start; nobody must ever wait there without us, so it
    ends with us, and readers go on. system: the devices of those filesystems.
    """

    kept: int
    own: int
    system: frozenset[int]

    def of(self, directory: int) -> int:
        """The group for the filesystem of an open directory."""
        return self.own if os.fstat(directory).st_dev in self.system or self._shares_btrfs(directory) else self.kept

    def _shares_btrfs(self, directory: int) -> bool:
        # Each of its subvolumes is a device of its own, and one watch is on them all.
        return _BTRFS in self.system and fanotify.filesystem_type(directory) == _BTRFS


def suited(denial: int, pid: int) -> int:
    """The same errno, but for the kernel's NFS server: EAGAIN has its client come again, EIO would be for good."""
    return errno.EAGAIN if denial == errno.EIO and _is_nfs_server(pid) else denial


def system_devices(paths: Iterable[str | Path]) -> frozenset[int]:
    """The devices (and the type, for btrfs) of the filesystems that these paths, where they exist, are on."""
    found: set[int] = set()
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # a path that is not there is needed by nobody
            continue
        found.add(os.fstat(descriptor).st_dev)
        if fanotify.filesystem_type(descriptor) == _BTRFS:
            found.add(_BTRFS)
        os.close(descriptor)
    return frozenset(found)


def _is_nfs_server(pid: int) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:  # it is gone
        return False
    return name == b"nfsd" and not _has_program(pid)


def _has_program(pid: int) -> bool:
    """False for a thread of the kernel."""
    try:
        Path(f"/proc/{pid}/exe").readlink()
    except FileNotFoundError:
        return False
    return True
