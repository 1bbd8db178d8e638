"""The readers that wait, each with a deadline, and those that are given the placeholder for a while."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from archiver.access.board import Who
from archiver.access.fanotify import Event
from archiver.access.protocol import How

_SPARED = 30.0  # seconds from one block to the next
_SPARED_UNKNOWN = 2.0  # the same for processes of another namespace, which all look the same
_IN_ALL = 4  # times as long: who keeps coming back to look is to get the image in the end
_MOST_SPARED = 10_000


@dataclass(slots=True)
class Reader:
    """One that waits. group: whose event it is. until: when it is answered at the latest, in monotonic seconds."""

    id: int
    group: int
    event: Event
    until: float
    looked_at: bool = False  # a helper is finding out whether there is anything to wait for
    asked: bool = False  # the desk knows

    @property
    def how(self) -> How:
        return self.event.how

    @property
    def left_ms(self) -> int:
        return max(int((self.until - time.monotonic()) * 1000), 0)


class Readers:
    """Those who wait, by id and in the order of their deadlines."""

    def __init__(self) -> None:
        self._by_id: dict[int, Reader] = {}
        self._queue: list[tuple[float, int]] = []
        # Ids of an earlier responder, which the desk may still answer, are never used again.
        self._ids = itertools.count(time.monotonic_ns())

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Reader]:
        return iter(list(self._by_id.values()))

    def __contains__(self, reader: Reader) -> bool:
        return reader.id in self._by_id

    def add(self, group: int, event: Event, patience: float, *, looked_at: bool = False) -> Reader:
        """A new one, who waits for so many seconds."""
        reader = Reader(next(self._ids), group, event, time.monotonic() + patience, looked_at)
        self._by_id[reader.id] = reader
        heapq.heappush(self._queue, (reader.until, reader.id))
        return reader

    def take(self, id: int) -> Reader | None:
        """Who waits under this id, and does not any more."""
        return self._by_id.pop(id, None)

    def late(self) -> Iterator[Reader]:
        """Take all whose deadline is over."""
        while self._queue and (self._queue[0][0] <= time.monotonic() or self._queue[0][1] not in self._by_id):
            _, id = heapq.heappop(self._queue)
            if reader := self._by_id.pop(id, None):
                yield reader

    def pause(self) -> float:
        """Seconds until the next deadline, infinite when nobody waits."""
        return max(self._queue[0][0] - time.monotonic(), 0.0) if self._queue else math.inf


class Spared:
    """Who was given a placeholder as it is, and is still reading: the rest of it follows without asking again."""

    def __init__(self) -> None:
        self._terms: dict[Who, tuple[float, float]] = {}  # next block by, all of it by; oldest first

    def add(self, who: Who) -> None:
        now, gap = time.monotonic(), _gap(who)
        self._renew(who, now + gap, now + _IN_ALL * gap)

    def _renew(self, who: Who, block: float, end: float) -> None:
        self._terms.pop(who, None)
        self._terms[who] = (min(block, end), end)
        while len(self._terms) > _MOST_SPARED:
            del self._terms[next(iter(self._terms))]

    def forget(self, device: int, inode: int) -> None:
        for who in [who for who in self._terms if (who.device, who.inode) == (device, inode)]:
            del self._terms[who]

    def goes_on(self, who: Who) -> bool:
        """Whether this is the next block for one of them, who then has as much time again, but not for ever."""
        now, (block, end) = time.monotonic(), self._terms.get(who, (0.0, 0.0))
        if block <= now:
            return False
        self._renew(who, now + _gap(who), end)
        return True


def _gap(who: Who) -> float:
    return _SPARED if who.pid else _SPARED_UNKNOWN
