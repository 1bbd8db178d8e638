"""A file that is to be recalled, and the readers that wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum

from archiver.decoder.engine import Generated, Priority
from archiver.desk.asker import Asker
from archiver.desk.history import Ending, shown
from archiver.desk.place import Place
from archiver.desk.report import Recall


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reader is told. errno 0: go on, with what now stands in the file."""

    errno: int
    ending: Ending
    reason: str = ""


Answer = Callable[[Verdict], None]
FileKey = tuple[int, int]  # device, inode


class Stage(StrEnum):
    """How far a recall is."""

    WAITING = "waiting"
    DECODING = "decoding"
    WRITING = "writing"
    COMMITTING = "committing"  # the whole image stands in the file


@dataclass(eq=False, slots=True)
class Reader:
    """One that waits. Answered once; whoever takes it out of its job (under the desk's lock) answers it."""

    asker: Asker
    answer: Answer
    pidfd: int | None
    deadline: float  # time.monotonic()
    since: float = field(default_factory=time.monotonic)
    rule: str = ""
    job: Job | None = None
    alarm: int | None = None  # the vigil's, for its deadline


@dataclass(eq=False, slots=True)
class Job:
    """One file, however many readers it has."""

    key: FileKey
    fd: int
    place: Place
    priority: Priority
    owner: Hashable
    readers: dict[Reader, None] = field(default_factory=dict)
    stage: Stage = Stage.WAITING
    since: float = field(default_factory=time.monotonic)
    first: Asker = field(default_factory=lambda: Asker(0))
    picture: Future[Generated] | None = None  # once its decode has begun
    deadline: float | None = None  # that the decoder was told; None: nobody waited

    def told(self) -> Recall:
        """For people."""
        return Recall(
            path=shown(self.place.path),
            stage=str(self.stage),
            priority=self.priority.name.lower(),
            seconds=round(time.monotonic() - self.since, 3),
            readers=len(self.readers),
            process=self.first.name,
            user=self.first.user,
        )
