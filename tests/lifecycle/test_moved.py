"""A released file that is moved within its tier: record, original and history are found at its new place."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.errors import PlaceholderDamaged
from archiver.lifecycle.adopt import adopt
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.rebuild import adopt_moved
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.tiers.scan import scan_directory
from tests.lifecycle.conftest import row_of, scan_all


@pytest.mark.parametrize("recalled", [False, True], ids=["released", "recalled"])
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_a_scan_finds_what_was_moved(site: Site, tier_root: Path, recalled: bool, whole: bool) -> None:
    path = tier_root / "2019" / "a.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    if recalled:
        recall(site, [path])
    if whole:
        path.parent.rename(tier_root / "holiday")
        new = tier_root / "holiday" / path.name
    else:
        new = path.rename(tier_root / "moved.jpg")
    since = int(time.time())
    scan_all(site)
    (tier,) = site.local_tiers
    assert [(one.path, one.result) for one in adopt_moved(site, tier, since)] == [(new, Result.DONE)]
    assert row_of(site, new).state is (State.RECALLED if recalled else State.RELEASED)
    assert list(adopt_moved(site, tier, since)) == []
    undo(site, [new])
    assert new.read_bytes() == original


def test_what_was_gone_before_is_not_asked_about(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    path.rename(tier_root / "moved.jpg")
    scan_all(site)
    (tier,) = site.local_tiers
    assert list(adopt_moved(site, tier, int(time.time()) + 60)) == []


def test_a_clock_that_is_behind_does_not_shorten_the_grace_period_of_what_was_moved(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, moved = tier_root / "wide.jpg", tier_root / "moved.jpg"
    archive(site, paths=[path])
    path.rename(moved)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() - timedelta(days=400).total_seconds())
        scan_all(site)
        adopt(site, site.local_tiers[0], row_of(site, moved))
    expire(site, datetime.now(UTC))
    assert site.catalog.holding_for(row_of(site, moved).id) is not None


def test_a_file_that_is_read_before_its_old_place_is_missed_has_its_original(site: Site, tier_root: Path) -> None:
    path = tier_root / "2019" / "a.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    new = path.rename(tier_root / "2019" / "summer" / "a.jpg")
    (tier,) = site.local_tiers
    scan_directory(site.catalog, tier, "2019/summer")
    assert row_of(site, path).state is State.RELEASED, "nobody has looked"
    adopt(site, tier, row_of(site, new))
    assert row_of(site, path).state is State.GONE
    undo(site, [new])
    assert new.read_bytes() == original


def test_the_original_stays_with_the_first_of_two_copies(site: Site, tier_root: Path) -> None:
    path, copy = tier_root / "wide.jpg", tier_root / "copy.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    copy.write_bytes(path.read_bytes())
    scan_all(site)
    (tier,) = site.local_tiers
    adopt(site, tier, row_of(site, copy))
    assert site.catalog.holding_for(row_of(site, copy).id) is None
    undo(site, [path])
    assert path.read_bytes() == original


def test_what_was_moved_is_found_page_by_page(site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archiver.catalog.lookup.PAGE", 1)
    paths = [tier_root / "2019" / name for name in ("a.jpg", "b.JPG")]
    archive(site, paths=paths)
    paths[0].parent.rename(tier_root / "holiday")
    since = int(time.time())
    scan_all(site)
    (tier,) = site.local_tiers
    assert {one.path for one in adopt_moved(site, tier, since)} == {tier_root / "holiday" / path.name for path in paths}


def test_a_placeholder_that_claims_more_than_an_original_may_have_is_not_adopted(site: Site, tier_root: Path) -> None:
    copy = _copy_of_a_placeholder(site, tier_root)
    width, height = 900, 300
    site.limits = replace(site.limits, pixels=width * height - 1)
    (tier,) = site.local_tiers
    with pytest.raises(PlaceholderDamaged, match=f"{width}x{height} pixels"):
        adopt(site, tier, row_of(site, copy))
    site.limits = replace(site.limits, pixels=width * height)
    assert adopt(site, tier, row_of(site, copy)).result is Result.DONE


def test_readers_of_an_adopted_placeholder_are_noticed_before_the_catalog_calls_it_released(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _copy_of_a_placeholder(site, tier_root)
    seen: list[tuple[int, State]] = []
    monkeypatch.setattr(site, "forget", lambda fd: seen.append((os.fstat(fd).st_ino, row_of(site, copy).state)))
    (tier,) = site.local_tiers
    adopt(site, tier, row_of(site, copy))
    assert seen == [(copy.stat().st_ino, State.RESIDENT)]


def _copy_of_a_placeholder(site: Site, tier_root: Path) -> Path:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    copy = Path(shutil.copy(path, tier_root / "copy.jpg"))
    scan_all(site)
    return copy
