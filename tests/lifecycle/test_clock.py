"""A clock that goes ahead, and what is not deleted by it."""

from __future__ import annotations

import os
import time
from datetime import UTC
from datetime import datetime as _Datetime
from pathlib import Path

import pytest

from archiver.daemon import _Jobs
from archiver.lifecycle.archive import archive
from archiver.lifecycle.site import Site
from archiver.steady import Steadiness
from tests.lifecycle.dying import tracked_files

DAY = 86_400.0


class Times:
    """What the clock says, and what really passed; seconds."""

    def __init__(self) -> None:
        self.wall = time.time()
        self.passed = 1000.0

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds

    def steadiness(self) -> Steadiness:
        return Steadiness(lambda: self.wall, lambda: self.passed)


def test_a_clock_that_is_put_ahead_is_in_doubt_for_a_day_and_one_that_goes_its_way_never() -> None:
    times = Times()
    steady = times.steadiness()
    assert not steady.leapt()
    times.wait(90 * DAY)
    assert not steady.leapt(), "nobody looked, but the time did pass"
    times.wall += 1800
    assert not steady.leapt()
    times.wall += 40 * DAY
    assert steady.leapt()
    times.wait(3600)
    times.wall -= 40 * DAY
    assert steady.leapt()
    times.wait(DAY)
    assert not steady.leapt()


def test_the_daemon_ends_no_grace_period_by_a_clock_that_leapt(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(site)
    held, times = tier_root / ".archiver" / "holding", Times()
    jobs = _Jobs(site, times.steadiness())

    class Later(_Datetime):
        @classmethod
        def now(cls, tz: object = None) -> _Datetime:
            return _Datetime.fromtimestamp(times.wall, UTC)

    monkeypatch.setattr("archiver.daemon.datetime", Later)
    times.wall += 40 * DAY
    jobs.expire()
    assert len(os.listdir(held)) == len(tracked_files(tier_root))
    times.wait(2 * DAY)
    jobs.expire()
    assert os.listdir(held) == [], "it was the right time after all"
