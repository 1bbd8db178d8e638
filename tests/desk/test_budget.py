"""The recalls of the last hour, as the audit tells of them to a daemon that has just started."""

from __future__ import annotations

import time

import pytest

from archiver.catalog import Catalog
from archiver.catalog.rows import Act
from archiver.desk.budget import HOUR, READ_BY, Budget


@pytest.mark.parametrize("behind", [0.0, 400 * 86_400.0], ids=["right", "behind"])
def test_only_the_last_hour_counts_by_a_clock_that_is_right_and_by_one_that_is_behind(
    sqlite_catalog: Catalog, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    """A machine without a battery for its clock may start before all that its audit tells of."""
    now = time.time()
    for at in (now - 3 * HOUR, now - 2 * HOUR, now - HOUR / 2, now):
        sqlite_catalog._clock = lambda at=at: at
        sqlite_catalog.audit(Act.RECALLED, detail=f"{READ_BY}gthumb")
    sqlite_catalog.audit(Act.RECALLED, detail="by hand")
    monkeypatch.setattr(time, "time", lambda: now - behind)
    budget = Budget(3)
    budget.load(sqlite_catalog)
    assert budget.count() == 2
    assert budget.allows(0) and not budget.allows(1)
