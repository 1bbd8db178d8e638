"""Settling what was interrupted: only what dead processes left, and also when the catalog went with them."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.lifecycle import journal
from archiver.lifecycle import release as releasing
from archiver.lifecycle.archive import archive
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from tests.lifecycle.conftest import row_of
from tests.lifecycle.dying import Witness, run_and_kill


def test_an_act_under_way_is_left_to_the_process_that_does_it(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tier_root / "wide.jpg"
    others: list[int] = []

    def another_starts(name: str) -> None:
        if name == "release.placeholder_written":
            others.append(reconcile(site).counts.total())
            assert os.listdir(tier_root / ".archiver" / "journal")

    monkeypatch.setattr(releasing, "arrow", another_starts)
    assert archive(site, paths=[path]).count("release", Result.DONE) == 1
    assert others == [0]
    assert row_of(site, path).state is State.RELEASED


def test_who_looks_for_what_was_left_takes_no_entry_that_is_being_written(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tier,) = site.local_tiers
    lock = fcntl.flock
    looked: list[str] = []

    def look_first(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not looked:  # by who writes it; between its opening and its lock
            looked.extend(os.listdir(tier.journal_fd))
            assert list(journal.left_behind(tier.journal_fd)) == []
        lock(fd, operation)

    monkeypatch.setattr(journal.fcntl, "flock", look_first)
    assert archive(site, paths=[tier_root / "wide.jpg"]).count("release", Result.DONE) == 1
    assert len(looked) == 1


ARROWS = (
    "release.placeholder_written",
    "release.exchanged",
    "recall.tail_written",
    "recall.head_written",
    "undo.exchanged",
)


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_crash_that_also_takes_the_catalog_loses_nothing(
    site: Site, tier_root: Path, settings: Settings, tmp_path: Path, arrow: str
) -> None:
    witness = Witness(tier_root)
    verb = arrow.partition(".")[0].replace("release", "archive")
    if verb != "archive":
        run_and_kill(settings, "archive")
    assert run_and_kill(settings, verb, at=f"{arrow}:2")
    site.catalog.dispose()
    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    upgrade(settings.catalog_url)
    with open_site(settings) as fresh:
        outcomes: list[Outcome] = []
        reconcile(fresh, outcomes.append)
        assert [outcome.result for outcome in outcomes] == [Result.DONE]
        rebuild(fresh)
    witness.look_after_restart(settings)
    with open_site(settings) as fresh:
        undo(fresh, [tier_root])
    assert {path: path.read_bytes() for path in witness.originals} == witness.originals


def test_a_failed_act_is_settled_like_a_crashed_one(
    site: Site, tier_root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness(tier_root)

    def fail(name: str) -> None:
        if name == "release.exchanged":
            raise OSError(5, "Input/output error", "a directory")

    monkeypatch.setattr(releasing, "arrow", fail)
    outcomes: list[Outcome] = []
    archive(site, listener=outcomes.append)
    assert {outcome.result for outcome in outcomes if outcome.act == "release"} == {Result.FAILED}
    witness.look_after_restart(settings)


@pytest.mark.parametrize("act", ["recall", "rerelease"])
def test_another_placeholder_that_was_copied_over_the_file_of_a_dead_act_is_left_alone(
    site: Site, tier_root: Path, act: str
) -> None:
    path, other = tier_root / "2019/a.jpg", tier_root / "2019/b.JPG"
    archive(site, paths=[path, other])
    row, tier = row_of(site, path), site.local_tiers[0]
    assert row.record_id is not None
    with journal.begun(tier.journal_fd, Intent(act, row.path, row.record_id, row.inode)):
        shutil.copyfile(other, path)
    reconcile(site)
    assert path.read_bytes() == other.read_bytes()
    assert not os.listdir(tier_root / ".archiver" / "journal")
