"""What is mounted where, and so in which filesystem a path really lies."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    number: int
    device: str  # of the filesystem, "8:1"; btrfs has one for all its subvolumes
    root: str  # the folder of the filesystem that shows at `point`
    point: str
    kind: str  # "ext4", "xfs" ...


def mounts() -> list[Mount]:
    """Everything mounted that this process sees, in the order of mounting; nothing where there is no /proc."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [_mount(line) for line in lines]


def _mount(line: bytes) -> Mount:
    number, _, device, root, point = (os.fsdecode(_plain(word)) for word in line.split(b" ", 5)[:5])
    kind = os.fsdecode(line.partition(b" - ")[2].split(b" ", 1)[0])
    return Mount(int(number), device, root, point, kind)


def _plain(word: bytes) -> bytes:
    """Spaces and the like are written in octal."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), word)


def location(path: Path) -> PurePosixPath:
    """The filesystem's device and the path within it: one for whatever symbolic link or bind mount leads there.

    The path itself, resolved, where nothing tells what is mounted.
    """
    real = Path(os.path.realpath(path))  # Path.resolve raises where symbolic links go in circles
    at = {mount.point: mount for mount in mounts()}  # the last mounted on a point hides those before it
    for parent in (real, *real.parents):
        if mount := at.get(str(parent)):
            return PurePosixPath(mount.device, mount.root.lstrip("/"), real.relative_to(parent))
    return PurePosixPath(real)
