"""How fast a run may read that nobody waits for."""

from __future__ import annotations

import time
from threading import Event


class Pace:
    """Keeps reading below a rate; waits on the stop event, so that a stop is never late."""

    def __init__(self, bytes_per_second: int, stop: Event) -> None:
        self._rate = bytes_per_second
        self._stop = stop
        self._start = time.monotonic()
        self._read = 0

    def took(self, size: int) -> None:
        self._read += size
        if self._rate:
            ahead = self._read / self._rate - (time.monotonic() - self._start)
            if ahead > 0:
                self._stop.wait(ahead)
