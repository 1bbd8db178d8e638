"""Full, read-only, failing and unplugged disks: a named error, originals whole, and the rest goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures_fs import Disk, FaultyDisk, run

from archiver import doctor
from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.checks import Verdict
from archiver.config import Settings
from archiver.errors import DiskFull, InputOutputError, ReadOnlyFilesystem
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from tests.lifecycle.conftest import fill_with_photographs, make_settings, scan_all
from tests.lifecycle.dying import Witness, tracked_files

pytestmark = pytest.mark.root


@contextmanager
def site_on(disk: Disk, state: Path, vault: Path, **release: str) -> Iterator[Site]:
    settings = make_settings(state, disk.path, vault, **release)
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan_all(site)
        yield site


def collect(into: list[Outcome]) -> Callable[[Outcome], None]:
    return into.append


def test_doctor_says_that_the_catalogs_disk_is_full_where_the_catalog_cannot_say_so(
    small_disk: Disk, tmp_path: Path, random_vault: Path
) -> None:
    settings = make_settings(small_disk.path, tmp_path, random_vault)
    upgrade(settings.catalog_url)
    small_disk.fill()
    found = {check.subject: check for check in doctor._guarded("catalog", lambda: doctor._catalog(settings))}
    assert found["catalog"].verdict is Verdict.BROKEN
    assert found["catalog's disk"].verdict is Verdict.WARNING
    assert "Make room" in found["catalog's disk"].hint


def test_a_recall_onto_a_full_disk_leaves_placeholders(small_disk: Disk, tmp_path: Path, random_vault: Path) -> None:
    fill_with_photographs(small_disk.path)
    paths = tracked_files(small_disk.path)
    with site_on(small_disk, tmp_path, random_vault) as site:
        archive(site)
        before = {path: path.read_bytes() for path in paths}
        ballast = small_disk.fill(leave=64 * 1024)
        outcomes: list[Outcome] = []
        recall(site, paths, listener=collect(outcomes))
        failed = [outcome for outcome in outcomes if outcome.result is Result.FAILED]
        assert failed
        assert all(isinstance(outcome.error, DiskFull) for outcome in failed)
        for outcome in failed:
            assert outcome.path.read_bytes() == before[outcome.path]
        ballast.unlink()
        recall(site, paths)
        assert undo(site, paths).count("undo", Result.DONE) == len(paths)


def test_a_release_on_a_full_disk_leaves_originals(small_disk: Disk, tmp_path: Path, random_vault: Path) -> None:
    fill_with_photographs(small_disk.path)
    with site_on(small_disk, tmp_path, random_vault) as site:
        witness = Witness(small_disk.path)
        ballast = small_disk.fill()
        outcomes: list[Outcome] = []
        archive(site, listener=collect(outcomes))
        assert not [outcome for outcome in outcomes if outcome.act == "release" and outcome.result is Result.DONE]
        assert any(isinstance(outcome.error, DiskFull) for outcome in outcomes)
        assert {path: path.read_bytes() for path in witness.originals} == witness.originals
        ballast.unlink()
        assert archive(site).count("release", Result.DONE) == len(witness.originals)
        witness.look_right_after()
    witness.look_after_restart(make_settings(tmp_path, small_disk.path, random_vault))


def test_a_disk_that_turns_read_only_changes_nothing(small_disk: Disk, tmp_path: Path, random_vault: Path) -> None:
    fill_with_photographs(small_disk.path)
    with site_on(small_disk, tmp_path, random_vault) as site:
        witness = Witness(small_disk.path)
        site.tiers["photos"].holding_fd  # noqa: B018 - made while that was still possible
        small_disk.remount("ro")
        outcomes: list[Outcome] = []
        archive(site, listener=collect(outcomes))
        assert {path: path.read_bytes() for path in witness.originals} == witness.originals
        assert any(isinstance(outcome.error, ReadOnlyFilesystem) for outcome in outcomes)
        small_disk.remount("rw")
        assert archive(site).count("release", Result.DONE) == len(witness.originals)


def test_an_unreadable_file_is_reported_and_the_others_go_on(
    faulty_disk: FaultyDisk, tmp_path: Path, random_vault: Path
) -> None:
    fill_with_photographs(faulty_disk.path)
    with site_on(faulty_disk, tmp_path, random_vault) as site:
        paths = tracked_files(faulty_disk.path)
        broken = faulty_disk.path / "wide.jpg"
        faulty_disk.fail(broken, "read", offset=8192)
        outcomes: list[Outcome] = []
        tally = archive(site, listener=collect(outcomes))
        assert tally.count("release", Result.DONE) == len(paths) - 1
        (failure,) = [outcome for outcome in outcomes if outcome.result is not Result.DONE]
        assert failure.path == broken
        assert isinstance(failure.error, InputOutputError)
        faulty_disk.heal()
        faulty_disk.forget(broken)
        located = site.locate(broken)
        row = site.catalog.find(located.tier_id, located.relative)
        assert row is not None
        assert row.state is State.RESIDENT


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_leaves_every_file_whole(
    faulty_disk: FaultyDisk,
    make_disk: Callable[..., Disk],
    tmp_path: Path,
    random_vault: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catalog and tier lie on the disk whose power goes at an arrow; only what was synced is sure to be there."""
    from archiver.lifecycle import archive as archiving
    from archiver.lifecycle import fill as filling
    from archiver.lifecycle import overwrite
    from archiver.lifecycle import recall as recalling
    from archiver.lifecycle import release as releasing

    photos, state = faulty_disk.path / "photos", faulty_disk.path / "state"
    photos.mkdir()
    state.mkdir()
    fill_with_photographs(photos)
    settings = make_settings(state, photos, random_vault)
    upgrade(settings.catalog_url)
    run("sync", "-f", photos)  # the photographs have been there for years
    witness = Witness(photos)
    moment = ["record.committed", "release.placeholder_written", "release.exchanged", "release.committed",
              "recall.tail_written", "recall.head_written"][seed]  # fmt: skip
    image = tmp_path / "after.img"

    def cut(name: str) -> None:
        if name == moment and not image.exists():
            faulty_disk.power_cut(image, seed)

    for module in (archiving, recalling, filling, overwrite, releasing):
        monkeypatch.setattr(module, "arrow", cut)
    with open_site(settings) as site:
        scan_all(site)
        archive(site)
        recall(site, [photos])
    assert image.exists()

    after = make_disk(image=image)
    found = _moved(settings, witness, faulty_disk.path, after.path)
    found.look_right_after()
    found.look_after_restart(make_settings(after.path / "state", after.path / "photos", random_vault))


def _moved(settings: Settings, witness: Witness, old: Path, new: Path) -> Witness:
    """The same witness, looking at the disk where it is mounted after the cut."""
    moved = object.__new__(Witness)
    moved.root = new / witness.root.relative_to(old)
    moved.originals = {new / path.relative_to(old): data for path, data in witness.originals.items()}
    moved.mtimes = {new / path.relative_to(old): mtime for path, mtime in witness.mtimes.items()}
    return moved


def test_a_tier_that_is_unplugged_is_not_read_as_deleted(small_disk: Disk, tmp_path: Path, random_vault: Path) -> None:
    from archiver.errors import TierUnreachable
    from archiver.tiers.scan import scan

    fill_with_photographs(small_disk.path)
    with site_on(small_disk, tmp_path, random_vault) as site:
        files = len(tracked_files(small_disk.path))
        for tier in site.tiers.values():
            tier.close()
        run("umount", small_disk.path)
        (small_disk.path / "stray.txt").write_text("somebody wrote below the mount point")
        with pytest.raises(TierUnreachable):
            scan(site.catalog, site.tiers["photos"])
        with pytest.raises(TierUnreachable):
            archive(site)
        assert sum(count.files for count in site.catalog.summary()[0].states) == files
        assert site.catalog.summary()[0].of(State.GONE).files == 0
        shutil.rmtree(small_disk.path)
        small_disk.path.mkdir()
        run("mount", "-o", "loop", small_disk.image, small_disk.path)
