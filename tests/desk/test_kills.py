"""Whatever step of a recall a process dies at: there is a whole placeholder or a whole image, and the next goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.config import Settings
from archiver.desk.desk import RecallDesk
from archiver.desk.history import Ending
from archiver.lifecycle import fill as filling
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.recall import recall
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from tests.desk.conftest import ask
from tests.lifecycle.conftest import row_of
from tests.lifecycle.dying import _SERVER, Witness, run_and_kill

ARROWS = ("recall.decoded", "recall.tail_written", "recall.head_written")  # tests/lifecycle dies at every one


def read_all(settings: Settings, paths: list[Path], kill_at: str) -> None:
    """One reader of each file, at a desk that may die."""
    os.environ["ARCHIVER_KILL_AT"] = kill_at
    with open_site(settings) as site:
        reconcile(site)
        desk = RecallDesk(site)
        desk.start()
        for waiting in [ask(desk, path) for path in paths]:
            assert waiting.verdict().ending in (Ending.RECALLED, Ending.THERE)
        desk.stop()


def read_and_kill(settings: Settings, paths: list[Path], at: str = "") -> int:
    process = _SERVER.Process(target=read_all, args=(settings, paths, at))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_desk_that_dies_at_any_step_is_put_right_by_the_next(
    site: Site, settings: Settings, tier_root: Path, arrow: str
) -> None:
    witness = Witness(tier_root)
    assert not run_and_kill(settings, "archive")
    paths = list(witness.originals)
    assert read_and_kill(settings, paths, f"{arrow}:2") == -9
    witness.look_right_after()
    witness.look_after_restart(settings)
    assert read_and_kill(settings, paths) == 0
    assert set(witness.look_after_restart(settings).values()) == {State.RECALLED}
    assert {row_of(site, path).state for path in paths} == {State.RECALLED}


def test_a_catalog_that_knew_before_the_disk_did_is_put_right(
    site: Site, settings: Settings, released: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image's first block and the catalog are synced side by side: the power may fail with only the second done."""
    path = released[0]
    placeholder, times = path.read_bytes(), path.stat().st_mtime_ns

    def power_fails(name: str) -> None:
        if name == "recall.committed":
            raise KeyboardInterrupt  # the one that no handler settles, as none would run

    monkeypatch.setattr(filling, "arrow", power_fails)
    with pytest.raises(KeyboardInterrupt):
        recall(site, [path])
    assert row_of(site, path).state is State.RECALLED
    with path.open("r+b") as file:  # the block that never came to the disk
        file.write(placeholder[:4096])
    with open_site(settings) as after:
        assert reconcile(after).counts.total() == 1
    assert row_of(site, path).state is State.RELEASED
    assert path.read_bytes() == placeholder
    assert path.stat().st_mtime_ns == times
    monkeypatch.undo()
    assert recall(site, [path]).count("recall", Result.DONE) == 1
