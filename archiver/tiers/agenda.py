"""What the watcher has to do, and when: changes are collected until they pause, reads for a minute."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the watcher waits; seconds."""

    quiet: float = 2.0  # after the last change in a directory
    longest: float = 15.0  # after the first change, however many follow
    reads: float = 60.0  # after the first read in a directory
    retry: float = 30.0  # where a scan is running already, or the tier or the catalog is not there


@dataclass(slots=True)
class Due:
    """What is to be done now. Where `everything` is set, the tier is scanned as a whole."""

    everything: bool = False
    changed: list[str] = field(default_factory=list)  # directories
    read: list[str] = field(default_factory=list)  # directories in which files were read
    accesses: dict[str, int] = field(default_factory=dict)  # files by path, and when they were read: seconds since 1970

    def __bool__(self) -> bool:
        return self.everything or bool(self.changed or self.read or self.accesses)


class Agenda:
    """Filled by one thread, emptied by another."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._news = threading.Condition()
        self._closed = False
        self._everything: float | None = None  # when; all these are times of time.monotonic
        self._changed: dict[str, tuple[float, float]] = {}  # first change, when to scan
        self._read: dict[str, float] = {}
        self._accesses: dict[str, int] = {}
        self._accesses_at = 0.0
        self._next = float("inf")  # what the waiting thread waits for

    def everything(self) -> None:
        """Scan the whole tier, now."""
        with self._news:
            self._everything = time.monotonic()
            self._expect(self._everything)

    def changed(self, directory: str) -> None:
        """Scan a directory once it is quiet."""
        with self._news:
            now = time.monotonic()
            first, _ = self._changed.get(directory, (now, now))
            due = min(first + self._timing.longest, now + self._timing.quiet)
            self._changed[directory] = first, due
            self._expect(due)

    def read(self, directory: str) -> bool:
        """Scan a directory in a while, for its access times; True where that was not planned yet."""
        with self._news:
            if directory in self._read:
                return False
            self._read[directory] = time.monotonic() + self._timing.reads
            self._expect(self._read[directory])
            return True

    def accessed(self, path: str, at: int) -> None:
        """Note in a while that a file was read."""
        with self._news:
            if not self._accesses:
                self._accesses_at = time.monotonic() + self._timing.reads
                self._expect(self._accesses_at)
            self._accesses[path] = at

    def put_back(self, due: Due) -> None:
        """Do it later: it could not be done."""
        with self._news:
            again = time.monotonic() + self._timing.retry
            if due.everything:
                self._everything = again
            self._changed = dict.fromkeys(due.changed, (again, again)) | self._changed
            self._read = dict.fromkeys(due.read, again) | self._read
            if due.accesses:
                self._accesses = due.accesses | self._accesses
                self._accesses_at = again

    def wait(self) -> Due | None:
        """What is due, as soon as something is; None once the agenda is closed."""
        with self._news:
            while not self._closed:
                if due := self._take(time.monotonic()):
                    return due
                self._next = self._earliest()
                self._news.wait(None if self._next == float("inf") else max(0.0, self._next - time.monotonic()))
                self._next = float("inf")
        return None

    def close(self) -> None:
        """Nothing is to be done any more."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _expect(self, due: float) -> None:
        if due < self._next:
            self._news.notify_all()

    def _earliest(self) -> float:
        times = [due for _, due in self._changed.values()]
        times += self._read.values()
        times += [] if self._everything is None else [self._everything]
        times += [self._accesses_at] if self._accesses else []
        return min(times, default=float("inf"))

    def _take(self, now: float) -> Due:
        due = Due(everything=self._everything is not None and self._everything <= now)
        if due.everything:  # then all that is known to have changed is scanned with the rest
            self._everything = None
            now = float("inf")
        due.changed = [directory for directory, (_, at) in self._changed.items() if at <= now]
        due.read = [directory for directory, at in self._read.items() if at <= now]
        for directory in due.changed:
            del self._changed[directory]
        for directory in due.read:
            del self._read[directory]
        if self._accesses and self._accesses_at <= now:
            due.accesses, self._accesses = self._accesses, {}
        return due
