"""A catalog that was put back from a backup: files were recalled, released and given back since, and it knows nothing
of that. A tier that was: it stands on another disk.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.errors import TierEmpty, TierUnreachable
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from tests.lifecycle.conftest import row_of, scan_all

Patch = pytest.MonkeyPatch
PutBack = Callable[[], Site]


@pytest.fixture
def put_back(site: Site, settings: Settings, tmp_path: Path) -> Iterator[Callable[[], PutBack]]:
    """Call it to back the catalog up, and what it gives to open a site on that backup."""
    with ExitStack() as opened:

        def back_up() -> PutBack:
            url = f"sqlite:///{tmp_path}/backup.db"
            with (
                closing(sqlite3.connect(tmp_path / "catalog.db")) as live,
                closing(sqlite3.connect(tmp_path / "backup.db")) as backup,
            ):
                live.backup(backup)
            catalog = settings.catalog.model_copy(update={"url": url})
            older = settings.model_copy(update={"catalog": catalog})
            return lambda: opened.enter_context(open_site(older))

        yield back_up


@pytest.mark.parametrize("since", [State.RECALLED, State.RELEASED], ids=lambda state: state.label)
def test_rebuild_sees_what_was_recalled_or_released_again(
    site: Site, tier_root: Path, put_back: Callable[[], PutBack], since: State
) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    if since is State.RELEASED:
        recall(site, [path])
    reopen = put_back()
    acted = recall(site, [path]) if since is State.RECALLED else archive(site, paths=[path])
    assert acted.count("recall" if since is State.RECALLED else "release", Result.DONE) == 1
    older = reopen()
    scan_all(older)
    assert row_of(older, path).state is not since, "a scan cannot tell"
    assert rebuild(older).counts == {("adopt", Result.DONE): 1}
    assert row_of(older, path).state is since
    assert verify(older).exit_code == 0
    assert rebuild(older).counts.total() == 0
    assert older.catalog.recount(correct=False) == []
    undo(older, [path])
    assert path.read_bytes() == original


@pytest.mark.parametrize("recalled", [False, True], ids=["released", "recalled"])
def test_rebuild_sees_what_was_given_back(
    site: Site, tier_root: Path, put_back: Callable[[], PutBack], recalled: bool
) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    if recalled:
        recall(site, [path])
    reopen = put_back()
    undo(site, [path])
    older = reopen()
    assert rebuild(older).counts == {("adopt", Result.DONE): 1}
    row = row_of(older, path)
    assert row.state is State.RECORDED
    assert older.catalog.holding_for(row.id) is None, "what is not held must not be promised"
    assert verify(older).exit_code == 0
    assert rebuild(older).counts.total() == 0
    assert older.catalog.recount(correct=False) == []
    assert archive(older, paths=[path]).count("release", Result.DONE) == 1
    undo(older, [path])
    assert path.read_bytes() == original


def test_rebuild_leaves_what_a_user_wrote_beside_a_held_original(site: Site, tier_root: Path) -> None:
    path, other = tier_root / "wide.jpg", tier_root / "2019" / "d.png"
    written = other.read_bytes()
    archive(site, paths=[path])
    path.write_bytes(written)
    scan_all(site)
    assert rebuild(site).counts.total() == 0
    row = row_of(site, path)
    assert row.state is State.SUPERSEDED
    assert site.catalog.holding_for(row.id) is not None


def test_rebuild_leaves_a_damaged_placeholder_to_verify(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(4096))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rebuild(site).counts.total() == 0
    assert row_of(site, path).state is State.RELEASED
    assert verify(site).count("verify", Result.FAILED) == 1


@pytest.mark.parametrize("known", [State.SUPERSEDED, State.RELEASED], ids=["another inode", "the same inode again"])
def test_what_was_given_back_and_released_again_has_its_whole_grace_period(
    site: Site, tier_root: Path, tmp_path: Path, put_back: Callable[[], PutBack], known: State, monkeypatch: Patch
) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(site.catalog, "_clock", lambda: time.time() - 60)  # a minute ago
        archive(site, paths=[path])
    reopen = put_back()
    undo(site, [path])
    archive(site, paths=[path])
    inode = path.stat().st_ino + (known is State.SUPERSEDED)
    with closing(sqlite3.connect(tmp_path / "backup.db")) as backup, backup:
        backup.execute("UPDATE file SET inode = ? WHERE name = ?", (inode, b"wide.jpg"))
    older = reopen()
    scan_all(older)
    assert row_of(older, path).state is known
    # The grace period of the release that the backup knows is over; that of the second began just now.
    tally = expire(older, datetime.now(UTC) + timedelta(days=31))
    assert tally.counts == {("adopt", Result.DONE): 1}
    assert row_of(older, path).state is State.RELEASED
    assert undo(older, [path]).count("undo", Result.DONE) == 1
    assert path.read_bytes() == original


@pytest.mark.parametrize("recalled", [False, True], ids=["released", "recalled"])
def test_a_tier_that_was_copied_to_a_new_disk_is_accepted_with_all_it_had(
    settings: Settings, tier_root: Path, recalled: bool
) -> None:
    path, other, pinned = (tier_root / name for name in ("wide.jpg", "2019/d.png", "2019/a.jpg"))
    original = path.read_bytes()
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan_all(site)
        site.catalog.pin(site.tier_ids["photos"], "2019/a.jpg")
        archive(site, paths=[path, other, pinned])
        if recalled:
            recall(site, [path])
    old = tier_root.rename(tier_root.with_name("old"))
    tier_root.mkdir()
    with open_site(settings) as site:
        known = site.catalog.tiers()
        with pytest.raises(TierEmpty, match="is empty"):
            rebuild(site, accept=["photos"])
        assert site.catalog.tiers() == known, "nothing but the old disk is the tier"
    tier_root.rmdir()
    shutil.copytree(old, tier_root, symlinks=True)
    with open_site(settings) as site:
        with pytest.raises(TierUnreachable):
            scan_all(site)
        rebuild(site, accept=["photos"])
        assert row_of(site, path).state is (State.RECALLED if recalled else State.RELEASED)
        assert row_of(site, pinned).state is State.RESIDENT
        assert [str(one.path) for one in site.catalog.pins()] == ["2019/a.jpg"]
        assert verify(site).exit_code == 0
        assert undo(site, [path]).count("undo", Result.DONE) == 1
        assert path.read_bytes() == original
        assert expire(site, datetime.now(UTC) + timedelta(days=60)).counts == {("expire", Result.DONE): 1}
        assert site.catalog.holding_for(row_of(site, other).id) is None
        assert os.listdir(tier_root / ".archiver" / "holding") == []
