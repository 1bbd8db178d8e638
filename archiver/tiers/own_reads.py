"""Which files this process reads itself, so that the watcher does not take it for their use."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

_GRACE = 60.0  # seconds until an event about a read that is over must have been handled


class OwnReads:
    """Paths, relative to the tier, that this process has open or had open just now; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._until: OrderedDict[str, float] = OrderedDict()  # in the order in which they end

    @contextmanager
    def of(self, path: str) -> Iterator[None]:
        """What is read at `path` within the body is no use of the file."""
        with self._lock:
            self._open[path] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[path] -= 1
                if not self._open[path]:
                    del self._open[path]
                self._until[path] = time.monotonic() + _GRACE
                self._until.move_to_end(path)
                self._forget_old()  # here too: where the filesystem keeps access times nobody ever asks

    def __contains__(self, path: str) -> bool:
        with self._lock:
            self._forget_old()
            return path in self._open or path in self._until

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
