"""Which directories of a tier are watched, by which number of the kernel's."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

from archiver.errors import WatchLimit
from archiver.tiers import fileops
from archiver.tiers.inotify import Inotify, Mask
from archiver.tiers.listing import AREA, Exclusion
from archiver.tiers.local import LocalTier
from archiver.tiers.walk import mounts_below

_CHANGES = Mask.CREATE | Mask.CLOSE_WRITE | Mask.ATTRIB | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.DELETE
_SELF = Mask.DELETE_SELF | Mask.MOVE_SELF


class Watches:
    """The watched directories of one tier; for any number of threads. A context manager. Raises WatchLimit, OSError."""

    def __init__(self, tier: LocalTier) -> None:
        self._tier = tier
        self._exclusion = Exclusion(tier.settings.exclude)
        self._device = os.fstat(tier.root_fd).st_dev
        self._mounts = mounts_below(tier.root)
        # Each the inverse of the other: a moved directory keeps its number, and has one path only.
        self._paths: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._lock = threading.RLock()
        self._closed = False
        self.limit: WatchLimit | None = None  # set once the kernel refused a watch: some directories are not watched
        self.inotify = Inotify()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            self.inotify.close()

    def __len__(self) -> int:
        return len(self._paths)

    def path_of(self, number: int) -> str | None:
        """The directory of a watch, None where it is watched no longer."""
        with self._lock:
            return self._paths.get(number)

    def add_tree(self, start: str, stop: threading.Event) -> list[str]:
        """Watch a directory and all below it; those that were not watched before."""
        fresh: list[str] = []
        stack = [start]
        while stack and not stop.is_set() and self.limit is None:
            path = stack.pop()
            subdirectories = self._add(path, fresh)
            prefix = f"{path}/" if path else ""
            stack += [prefix + name for name in subdirectories if not self._exclusion.prunes(f"{prefix}{name}")]
        return fresh

    def drop_tree(self, start: str) -> None:
        """Watch a directory and all below it no longer: it was moved or removed."""
        with self._lock:
            inside = f"{start}/"
            for path in [path for path in self._numbers if path == start or path.startswith(inside)]:
                self._forget(self._numbers[path])

    def drop(self, number: int) -> None:
        """Forget a watch that the kernel has dropped."""
        with self._lock:
            path = self._paths.pop(number, None)
            if path is not None:
                del self._numbers[path]

    def hear_reads(self, path: str, hear: bool) -> None:
        """Let a watched directory tell when files in it were read, or no longer. A vanished one is left as it is."""
        try:
            fd = fileops.open_directory(self._tier.root_fd, path)
        except OSError:
            return  # its end is an event of its own
        try:
            with self._lock:
                if path in self._numbers and not self._closed:
                    self.inotify.watch(fd, _mask(hear))
        finally:
            os.close(fd)

    def _forget(self, number: int) -> None:
        self.drop(number)
        self.inotify.forget(number)

    def _add(self, path: str, fresh: list[str]) -> list[str]:
        """Watch one directory; the names of its subdirectories, read after the watch was set so that none is missed."""
        if path in self._mounts:
            return []
        try:
            fd = fileops.open_directory(self._tier.root_fd, path)
        except OSError:
            return []  # gone or unreadable: the scan says so
        try:
            if os.fstat(fd).st_dev != self._device:
                return []
            with self._lock:
                number = self.inotify.watch(fd, _mask(hear=True))
                if self._paths.get(number) != path:
                    # It was moved here from elsewhere in the tier, perhaps to where another one was. The events that
                    # tell of that come later, and find that all is done.
                    self.drop(number)
                    if path in self._numbers:
                        self._forget(self._numbers[path])
                    self._paths[number] = path
                    self._numbers[path] = number
                    fresh.append(path)
            with os.scandir(fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name != AREA]
        except WatchLimit as limit:
            self.limit = limit
            return []
        except OSError:
            return []
        finally:
            os.close(fd)


def _mask(hear: bool) -> int:
    return _CHANGES | _SELF | (Mask.CLOSE_NOWRITE if hear else 0)
