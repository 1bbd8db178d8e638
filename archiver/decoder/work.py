"""What a decoder is asked to do, and the queue in which it waits. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from time import monotonic
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from archiver.codec import schemes
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme, Steering
from archiver.decoder.engine import Priority


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """A picture at working size to its record."""

    picture: Picture
    scheme: Scheme
    steering: Steering
    profile: bytes  # its key


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """A record to its picture (h, w, 3)."""

    record: Record


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """A decoded picture (h, w, 3) to a report of how near it is to its original."""

    picture: Picture
    decoded: NDArray[np.uint8]
    profile: bytes  # the key of that whose networks judge


Work = Encode | Decode | Measure


class Runner(Protocol):
    """What does the arithmetic: the networks in this process, or a process that has them."""

    @property
    def device(self) -> str:
        """For the label of a generated image; "" where nobody knows before `start`."""
        ...

    @property
    def batch(self) -> int:
        """How many records one call decodes together."""
        ...

    @property
    def lanes(self) -> int:
        """How many calls may be under way at once; grows to its full number when `start` has returned."""
        ...

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory, by name."""
        ...

    def start(self) -> None:
        """Be ready to run; weights may still be loaded later. Raises DecoderFailed."""
        ...

    def run(self, works: Sequence[Work]) -> list[Any]:
        """Do works of one company, at most `batch`; what came out of each.

        Raises OutOfMemory, DeviceLost, WorkerDied and what is wrong with a work itself.
        """
        ...

    def shrink(self) -> bool:
        """Decode half as many together from now on; False where that is not possible."""
        ...

    def fall_back(self) -> bool:
        """Leave a device that failed for the CPU; False where that is where it is."""
        ...

    def unload(self) -> None:
        """Give the memory back; the next run loads again."""
        ...


class OutOfMemory(Exception):
    """The device has too little memory for what one call asked."""


class DeviceLost(Exception):
    """The device does not work any more."""


class WorkerDied(Exception):
    """The process that did the arithmetic ended; says how."""


@dataclass(slots=True, eq=False)
class Job:
    """One work, who waits for it and how long."""

    work: Work
    priority: Priority
    deadline: float | None  # of time.monotonic()
    company: Hashable
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=monotonic)
    deaths: int = 0  # how often a worker died over it


def company(work: Work) -> Hashable:
    """Works of equal company can be done in one call; None can be done with nothing else.

    Raises RecordCorrupt.
    """
    if not isinstance(work, Decode):
        return None
    record, material = work.record, schemes.material(work.record)
    parts = (getattr(material, part.name) for part in fields(material))
    shapes = tuple(None if part is None else part.shape for part in parts)
    return record.profile, record.scheme, record.grid, record.steering, shapes


class Waiting:
    """Jobs by priority, each in the order in which it came."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[Job]] = {priority: deque() for priority in sorted(Priority)}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def count(self, priority: Priority) -> int:
        """How many of one priority wait; those that nobody wants any more are dropped."""
        queue = self._queues[priority]
        if any(job.future.cancelled() for job in queue):
            self._queues[priority] = queue = deque(job for job in queue if not job.future.cancelled())
        return len(queue)

    def add(self, jobs: Sequence[Job]) -> None:
        """Put jobs at the end."""
        for job in jobs:
            self._queues[job.priority].append(job)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Put jobs that were taken at the front again."""
        for job in reversed(jobs):
            self._queues[job.priority].appendleft(job)

    def next(self, most: int) -> list[Job]:
        """The first job and its company, `most` together, without taking them; at least one must wait."""
        jobs = self._ordered()
        found = [next(jobs)]
        if found[0].company is not None:
            for job in jobs:
                if len(found) >= most:
                    break
                if job.company == found[0].company:
                    found.append(job)
        return found

    def take(self, jobs: Sequence[Job]) -> None:
        """Remove jobs."""
        gone = set(map(id, jobs))
        for priority in {job.priority for job in jobs}:
            self._queues[priority] = deque(job for job in self._queues[priority] if id(job) not in gone)

    def clear(self) -> list[Job]:
        """Remove all, and give them."""
        jobs = list(self._ordered())
        self.take(jobs)
        return jobs

    def _ordered(self) -> Iterator[Job]:
        for queue in self._queues.values():
            yield from queue
