"""One thread that notices when a moment has come and when a process has ended."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence

_LOG = logging.getLogger("archiver.desk")

Call = Callable[[], None]


class Vigil:
    """Calls back, in its own thread, at given moments and at the end of given processes. Calls must not block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments: list[tuple[float, int]] = []  # with the number of its call, which may be forgotten by then
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count()
        self._ends: dict[int, Call] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="desk-vigil", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what has not come is forgotten."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:  # else it was never started
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def at(self, moment: float, call: Call) -> int:
        """Call when time.monotonic() has reached `moment`; the number is for `forget`."""
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = call
            heapq.heappush(self._moments, (moment, number))
            first = self._moments[0][0] == moment
        if first:
            os.eventfd_write(self._wake, 1)
        return number

    def forget(self, number: int) -> None:
        """Do not make that call, and let go of what it would need; nothing happens where it was made already."""
        with self._lock:
            self._calls.pop(number, None)

    def at_end_of(self, pidfd: int, call: Call) -> None:
        """Call once when the process of `pidfd` has ended; `let_go` before it is closed."""
        with self._lock:
            self._ends[pidfd] = call
            self._epoll.register(pidfd, select.EPOLLIN)

    def let_go(self, pidfd: int) -> None:
        """Look at a process no more."""
        with self._lock:
            if self._ends.pop(pidfd, None) is not None:
                self._epoll.unregister(pidfd)

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                wait = self._moments[0][0] - time.monotonic() if self._moments else None
            events = self._epoll.poll(None if wait is None else max(0.0, wait))
            if any(fd == self._wake for fd, _ in events):
                os.eventfd_read(self._wake)
            ends = [fd for fd, _ in events if fd != self._wake]
            for call in [*self._ended(ends), *self._due()]:
                try:
                    call()
                except Exception:
                    _LOG.exception("a call of the vigil failed")

    def _ended(self, fds: Sequence[int]) -> list[Call]:
        calls = []
        with self._lock:
            for fd in fds:
                # Asked again: the number may be that of another process by now.
                if fd in self._ends and _has_ended(fd):
                    calls.append(self._ends.pop(fd))
                    self._epoll.unregister(fd)
        return calls

    def _due(self) -> list[Call]:
        calls = []
        with self._lock:
            while self._moments and self._moments[0][0] <= time.monotonic():
                _, number = heapq.heappop(self._moments)
                if call := self._calls.pop(number, None):
                    calls.append(call)
        return calls


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
