"""What the desk has done: told to whoever follows, counted for an hour."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from archiver.desk.asker import Asker

HOUR = 3600.0
_MOST = 20_000  # events remembered; more than that in an hour are counted too low
_LONGEST = 300  # characters of a path that is told; the end says more than the beginning


class Ending(StrEnum):
    """What a reader got."""

    RECALLED = "recalled"
    THERE = "there"  # the image was there already
    PLACEHOLDER = "placeholder"  # as a rule says
    REFUSED = "refused"  # as a rule says
    FULL = "full"  # a limit was reached
    LATE = "late"  # the deadline came first
    FAILED = "failed"
    LEFT = "left"  # the reader was killed, waits no more, or asks the next desk


@dataclass(frozen=True, slots=True)
class Event:
    """One reader's recall and how it ended. `at`: seconds since 1970; `seconds`: how long it waited."""

    at: float
    ending: Ending
    path: str
    pid: int
    process: str
    user: str
    seconds: float
    rule: str = ""
    reason: str = ""


Follower = Callable[[Event], None]


class History:
    """Events of the last hour by process and user, and who is told of new ones. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[tuple[float, tuple[str, str], Ending]] = deque(maxlen=_MOST)
        self._followers: list[Follower] = []
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has counted, at most an hour."""
        return min(time.monotonic() - self._since, HOUR)

    def follow(self, follower: Follower) -> None:
        """Have `follower` called with every event, in the thread it happens in; it must not block."""
        with self._lock:
            self._followers.append(follower)

    def leave(self, follower: Follower) -> None:
        """Undo `follow`."""
        with self._lock:
            self._followers.remove(follower)

    def tell(
        self, asker: Asker, path: Path, ending: Ending, waited: float, *, rule: str = "", reason: str = ""
    ) -> None:
        """One reader got its verdict."""
        event = Event(
            at=time.time(),
            ending=ending,
            path=shown(path),
            pid=asker.pid,
            process=printable(asker.name),
            user=asker.user,
            seconds=round(waited, 3),
            rule=rule,
            reason=reason,
        )
        with self._lock:
            self._events.append((time.monotonic(), (event.process, event.user), ending))
            followers = list(self._followers)
        for follower in followers:
            follower(event)

    def last_hour(self) -> dict[tuple[str, str], Counter[Ending]]:
        """How readers of the last hour ended, by process and user."""
        found: dict[tuple[str, str], Counter[Ending]] = {}
        with self._lock:
            while self._events and self._events[0][0] <= time.monotonic() - HOUR:
                self._events.popleft()
            for _, who, ending in self._events:
                found.setdefault(who, Counter())[ending] += 1
        return found


def shown(path: Path) -> str:
    """A path as text that every encoding takes, its beginning cut where it is very long."""
    text = printable(str(path))
    return text if len(text) <= _LONGEST else f"…{text[-_LONGEST:]}"


def printable(text: str) -> str:
    """Text with what is no UTF-8 as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
