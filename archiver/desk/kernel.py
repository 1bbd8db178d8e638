"""Readers that the kernel holds: questions of `archiver-recall`, handed to the desk one by one."""

from __future__ import annotations

import errno as errors
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from archiver.access.client import RecallClient
from archiver.access.protocol import Ask, How
from archiver.desk.asker import Asker
from archiver.desk.desk import RecallDesk
from archiver.desk.jobs import Reader, Verdict
from archiver.desk.report import Watch
from archiver.errors import TierUnreachable
from archiver.tiers.local import LocalTier

_LOG = logging.getLogger("archiver.desk")


@dataclass(eq=False, slots=True)
class _Question:
    """One asking; the same reader's, with the same id, comes again on a new connection."""

    id: int
    reader: Reader | None = None  # until the desk has taken it in


class KernelReaders:
    """The daemon's connection to `archiver-recall`, which may come and go.

    Close it after the desk has stopped, and whoever waited has its verdict; before, and they wait for the next desk.
    """

    def __init__(self, path: Path, desk: RecallDesk) -> None:
        self._desk = desk
        self._lock = threading.Lock()  # guards what follows
        self._questions: dict[int, _Question] = {}  # the latest of each id that is not answered yet
        self._watches: dict[str, Watch] = {}
        self._devices: dict[str, int] = {}  # what was sent for watching
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._take_in, name="desk-intake", daemon=True)
        self.client = RecallClient(path, self)

    def start(self) -> None:
        """Connect, if anybody listens."""
        self._thread.start()
        self.client.start()

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()
        self._inbox.put(None)
        self._thread.join()

    def watch(self, tier: LocalTier) -> None:
        """Have reads on a tier noticed from now on; again where another filesystem stands there than the last time."""
        try:
            root = tier.root_fd
            device = os.fstat(root).st_dev
        except (TierUnreachable, OSError) as error:
            with self._lock:
                self._watches[tier.name] = Watch(tier.name, "nothing", str(error))
            return
        with self._lock:
            known = self._devices.get(tier.name) == device
            self._devices[tier.name] = device
            if not known:
                self._watches[tier.name] = Watch(tier.name, "nothing", "archiver-recall has not answered yet")
        if not known:
            self.client.watch(tier.name, root)

    def watches(self) -> tuple[Watch, ...]:
        """Whether and how reads on each tier are noticed."""
        with self._lock:
            if not self.client.connected:
                return tuple(Watch(name, "nothing", "archiver-recall is not there") for name in self._watches)
            return tuple(self._watches.values())

    # -- called by the connection --------------------------------------------------------------------------------------

    def asked(self, ask: Ask, fd: int, pidfd: int | None) -> None:
        """Somebody waits."""
        # Counted from now: where many come at once, the last is taken in some time after it has begun to wait.
        self._inbox.put(partial(self._ask, ask, fd, pidfd, time.monotonic() + ask.left_ms / 1000))

    def withdrawn(self, id: int) -> None:
        """That question is settled without an answer."""
        self._inbox.put(partial(self._withdraw, id))

    def watched(self, name: str, how: How, errno: int) -> None:
        """What became of `watch`."""
        problem = os.strerror(errno) if errno else ""
        if errno == errors.EOPNOTSUPP:
            problem = "its filesystem cannot be watched; use a mount"
        with self._lock:
            self._watches[name] = Watch(name, how.name.lower(), problem)
        level = logging.WARNING if errno else logging.INFO
        _LOG.log(level, "reads on %s: %s", name, problem or f"noticed ({how.name.lower()})")

    # -- the intake ----------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        while (act := self._inbox.get()) is not None:
            try:
                act()
            except Exception:
                _LOG.exception("a question of archiver-recall was not taken in")

    def _ask(self, ask: Ask, fd: int, pidfd: int | None, deadline: float) -> None:
        question = _Question(ask.id)
        with self._lock:
            before = self._questions.get(ask.id)
            self._questions[ask.id] = question
        question.reader = self._desk.ask(
            fd,
            Asker.of(ask.pid),
            partial(self._answer, question),
            pidfd=pidfd,
            patience=max(deadline - time.monotonic(), 0.0),
        )
        if before is not None and before.reader is not None:
            self._desk.withdraw(before.reader)  # asked again on a new connection: one of the two is enough

    def _answer(self, question: _Question, verdict: Verdict) -> None:
        with self._lock:
            if self._questions.get(question.id) is not question:
                return  # it was asked again, and withdrawn: who waits under this id waits for the other's verdict
            del self._questions[question.id]
        self.client.answer(question.id, verdict.errno)

    def _withdraw(self, id: int) -> None:
        with self._lock:
            question = self._questions.get(id)
        if question is not None and question.reader is not None:
            self._desk.withdraw(question.reader)
