"""Whether the clock on the wall can be believed: what is deleted by it is deleted for good."""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAP = 3600.0  # seconds; servers of the time correct by less
_DOUBT = 86_400.0  # seconds in which somebody can put a wrong clock right


def _passed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Steadiness:
    """Compares the clock with the time that passed, suspended or not, since this was made. For one thread."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        passed: Callable[[], float] = _passed,
    ) -> None:
        self._wall, self._passed = wall, passed
        self._ahead = wall() - passed()
        self._doubted_until = passed()

    def leapt(self) -> bool:
        """Whether the clock went ahead by more than an hour, within a day: time for which nobody waited."""
        passed = self._passed()
        ahead = self._wall() - passed
        if ahead - self._ahead > _LEAP:
            self._doubted_until = passed + _DOUBT
        self._ahead = ahead
        return passed < self._doubted_until
