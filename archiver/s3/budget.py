"""How many requests and bytes a second a tier may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

Clock = Callable[[], float]


class Budget:
    """So many units a second for all threads together, up to one second's worth at once; None is any number.

    A thread that takes more than there is waits for its turn, and the next one behind it: the sum of what was taken
    never runs ahead of the clock by more than a second.
    """

    def __init__(
        self, per_second: int | None, clock: Clock = time.monotonic, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._per_second, self._clock, self._wait = per_second, clock, wait
        self._lock = threading.Lock()
        self._paid_until = clock() - 1.0

    def take(self, units: int = 1) -> None:
        """Wait until `units` may be spent."""
        if self._per_second is None or units <= 0:
            return
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - 1.0) + units / self._per_second
            ahead = self._paid_until - now
        if ahead > 0:
            self._wait(ahead)
