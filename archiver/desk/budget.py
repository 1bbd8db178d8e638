"""How many files readers had recalled within the last hour: the audit remembers it over a restart."""

from __future__ import annotations

import time
from collections import deque

from archiver.catalog import Catalog
from archiver.catalog.rows import Act

HOUR = 3600.0
READ_BY = "read by "
"""How the audit's detail of a recall begins that a reader caused; those of `archiver recall` have none."""


class Budget:
    """Recalls by readers within the last hour, at most `most` of them (None: any number). Not safe for threads."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._times: deque[float] = deque()  # monotonic, so that a clock put right forgets and invents nothing

    def load(self, catalog: Catalog) -> None:
        """Count what earlier processes recalled. Raises CatalogUnavailable."""
        # A machine without a battery for its clock may start in the past: all that was ever recalled would be of now.
        now, here = max(time.time(), catalog.last_act_at()), time.monotonic()
        ages = []
        for row in catalog.audit_rows():  # newest first
            age = max(0.0, now - row.at)
            if age >= HOUR:
                break
            if row.act is Act.RECALLED and row.detail.startswith(READ_BY):
                ages.append(age)
        self._times = deque(here - age for age in reversed(ages))

    def count(self) -> int:
        """Recalls within the last hour."""
        while self._times and self._times[0] <= time.monotonic() - HOUR:
            self._times.popleft()
        return len(self._times)

    def allows(self, under_way: int) -> bool:
        """Whether one more may begin, with so many queued or under way."""
        return self.most is None or self.count() + under_way < self.most

    def spend(self) -> None:
        """One more file was recalled."""
        self._times.append(time.monotonic())
