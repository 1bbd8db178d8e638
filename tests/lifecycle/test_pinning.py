"""A pin that has returned holds, whatever release was about to begin or under way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from archiver.catalog.rows import State
from archiver.config import Settings
from archiver.errors import Pinned
from archiver.lifecycle import pinning, release, rerelease
from archiver.lifecycle.archive import archive
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.pinning import pin
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from tests.access.watching import until
from tests.lifecycle.conftest import row_of

PATIENCE = 60  # seconds


def pin_while(monkeypatch: pytest.MonkeyPatch, module: Any, step: str, site: Site, path: Path) -> None:
    """Pin a file when a release of it comes to a step."""
    does = getattr(module, step)

    def pin_first(*arguments: Any) -> Any:
        pin(site, path)
        return does(*arguments)

    monkeypatch.setattr(module, step, pin_first)


@pytest.mark.parametrize("module", [release, rerelease])
def test_a_release_that_looked_at_the_pins_just_before_looks_again(
    site: Site, tier_root: Path, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tier_root / "wide.jpg"
    if module is rerelease:
        archive(site, paths=[path])
        recall(site, [path])
    before, state = path.read_bytes(), State.RECALLED if module is rerelease else State.RECORDED
    pin_while(monkeypatch, module, "placeholder_head", site, path)
    outcomes: list[Outcome] = []
    assert archive(site, paths=[path], listener=outcomes.append).count("release", Result.REFUSED) == 1
    assert isinstance(outcomes[-1].error, Pinned)
    assert path.read_bytes() == before
    assert row_of(site, path).state is state
    assert not os.listdir(tier_root / ".archiver" / "journal")


@pytest.mark.parametrize(("pinned", "waits"), [("2019", True), ("2019/a.jpg", True), ("wide.jpg", False)])
def test_a_pin_outlasts_the_release_that_did_not_see_it(
    site: Site, tier_root: Path, pinned: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased, go_on, flocking = Event(), Event(), Event()
    path = tier_root / "2019" / "a.jpg"

    def stop_here(name: str) -> None:
        if name == "release.leased":
            leased.set()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(release, "arrow", stop_here)
    shared = pinning.journal.fcntl.flock

    def flock(fd: int, how: int) -> None:
        if how == pinning.journal.fcntl.LOCK_SH:
            flocking.set()
        shared(fd, how)

    monkeypatch.setattr(pinning.journal.fcntl, "flock", flock)
    with ThreadPoolExecutor(2) as threads:
        released = threads.submit(archive, site, paths=[path])
        assert leased.wait(PATIENCE)
        returned = threads.submit(pin, site, tier_root / pinned, subtree=True)
        until(lambda: flocking.is_set() or returned.done())
        assert returned.done() is not waits
        go_on.set()
        returned.result(PATIENCE)
        if waits:
            assert row_of(site, path).state is State.RELEASED
        assert released.result(PATIENCE).count("release", Result.DONE) == 1


def test_nothing_is_waited_for_where_nothing_was_ever_released(site: Site, tier_root: Path) -> None:
    pin(site, tier_root, subtree=True)  # of a tier that may be read-only
    assert [str(one.path) for one in site.catalog.pins()] == [""]
    assert not (tier_root / ".archiver" / "journal").exists()


def test_an_entry_of_a_dead_process_is_not_waited_for(settings: Settings, tier_root: Path) -> None:
    from archiver.catalog.schema import upgrade
    from archiver.lifecycle.opening import open_site
    from tests.lifecycle.conftest import scan_all
    from tests.lifecycle.dying import run_and_kill

    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan_all(site)
    assert run_and_kill(settings, "archive", at="release.exchanged")
    with open_site(settings) as site:
        pin(site, tier_root, subtree=True)
