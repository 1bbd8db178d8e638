"""A disk that is full or read-only: the placeholder stays as it is, and its reader or the log is told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fixtures_fs import Disk

from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.decoder.engine import Engine
from archiver.desk.history import Ending
from archiver.desk.service import DeskService
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from tests.desk.conftest import ask, desk_of
from tests.lifecycle.conftest import make_settings, photograph, row_of, scan_all

pytestmark = pytest.mark.root


def test_a_full_disk_leaves_the_placeholder_and_its_reader_an_error(
    small_disk: Disk, tmp_path: Path, random_vault: Path, engine: Engine
) -> None:
    path = small_disk.path / "a.jpg"
    photograph(1, (640, 480)).save(path, quality=95)
    settings = make_settings(tmp_path, small_disk.path, random_vault)
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        site._engine = engine
        scan_all(site)
        archive(site)
        before, stat, extents = path.read_bytes(), path.stat(), small_disk.extents(path)
        ballast = small_disk.fill(leave=16 * 1024)
        with desk_of(site, on_failure="error") as desk:
            verdict = ask(desk, path).verdict()
            assert (verdict.errno, verdict.ending) == (errno.EIO, Ending.FAILED)
            assert "no space left" in verdict.reason
            assert path.read_bytes() == before
            assert (small_disk.extents(path), path.stat().st_mtime_ns) == (extents, stat.st_mtime_ns)
            assert row_of(site, path).state is State.RELEASED
            ballast.unlink()
            assert ask(desk, path).verdict().ending is Ending.RECALLED
        site._engine = None


def test_the_log_says_whose_readers_get_placeholders_because_nothing_can_be_written(
    small_disk: Disk, tmp_path: Path, random_vault: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path, small_disk.path, random_vault)
    recall = settings.recall.model_copy(update={"socket": tmp_path / "recall.sock"})
    upgrade(settings.catalog_url)
    with open_site(settings.model_copy(update={"recall": recall})) as site:
        site._engine = engine
        for mode, said in (("rw", 0), ("ro", 1)):
            small_disk.remount(mode)
            service = DeskService(site)
            service.start()
            service.stop(for_good=True)
            assert caplog.text.count(f"{small_disk.path} is read-only here") == said
            assert caplog.text.count("ReadWritePaths=") == said
        site._engine = None
