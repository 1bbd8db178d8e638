"""What a scan sees, what it leaves out, and that it calls nothing gone without proof."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fixtures_fs import Disk, FaultyDisk, run
from sqlalchemy import event

from archiver.catalog import Catalog
from archiver.catalog.rows import Applied, FileRow, State
from archiver.config import LocalTierSettings
from archiver.errors import InputOutputError, TierBeingScanned, TierUnreachable
from archiver.tiers import fileops
from archiver.tiers.listing import Skip
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import Progress, ScanReport, scan, scan_directory

Files = Callable[[], dict[str, FileRow]]
Put = Callable[..., Path]


def states(files: Files) -> dict[str, str]:
    return {path: row.state.label for path, row in files().items()}


# -- what is tracked ---------------------------------------------------------------------------------------------------


def test_supported_images_are_tracked_whatever_the_case_of_their_name(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    names = ["a.jpg", "b.JPEG", "c.Jpe", "d.jfif", "e.png", "f.WebP", "g.tif", "h.TIFF"]
    for name in names:
        put(f"2019/{name}")
    report = scan(catalog, tier)
    assert sorted(files()) == [f"2019/{name}" for name in names]
    assert (report.complete, report.files, report.directories) == (True, 8, 2)
    assert report.changes == Applied(new=8)
    row = files()["2019/a.jpg"]
    stat = (tier.root / "2019/a.jpg").stat()
    assert row.state is State.RESIDENT
    assert row.version == (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def test_other_images_are_counted_and_other_files_ignored(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    for name in ("a.heic", "b.HEIF", "c.avif", "d.gif", "e.CR2", "f.dng", "g.jxl"):
        put(name)
    for name in ("notes.txt", "jpg", ".jpg", "._a.jpg", "movie.mp4", "a.jpg.part"):
        put(name)
    put("kept.jpg")
    report = scan(catalog, tier)
    assert list(files()) == ["kept.jpg"]
    assert report.unsupported == {"heif": 2, "avif": 1, "gif": 1, "raw": 2, "jpeg xl": 1}


def test_links_pipes_sockets_and_our_own_area_are_not_tracked(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put, tmp_path: Path
) -> None:
    put("real.jpg")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"secret")
    (tier.root / "link.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (tier.root / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(tier.root / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{tier.root_fd}/socket.jpg")  # the path itself is too long
    os.close(fileops.open_file(tier.holding_fd, "held.jpg", os.O_WRONLY | os.O_CREAT))
    put("2019/.archiver/holding/of-a-copied-tier.jpg")
    report = scan(catalog, tier)
    assert list(files()) == ["real.jpg"]
    assert report.skipped == {Skip.SYMLINK: 2, Skip.SPECIAL: 2}


def test_a_hard_linked_file_is_tracked_and_counted(catalog: Catalog, tier: LocalTier, files: Files, put: Put) -> None:
    put("a.jpg")
    os.link(tier.root / "a.jpg", tier.root / "b.jpg")
    put("c.jpg")
    report = scan(catalog, tier)
    assert sorted(files()) == ["a.jpg", "b.jpg", "c.jpg"]
    assert report.hard_linked == 2


def test_any_name_that_linux_allows_is_tracked(catalog: Catalog, tier: LocalTier, files: Files) -> None:
    names = [b"\xff\xfe.jpg", "Ümläut.jpg".encode(), b"new\nline.jpg", b" .jpg", b"x" * 251 + b".jpg", b"%s'\"\\.jpg"]
    folder = os.fsencode(tier.root) + b"/\xe9t\xe9"
    os.mkdir(folder)
    for name in names:
        with open(folder + b"/" + name, "wb"):
            pass
    assert scan(catalog, tier).files == len(names)
    assert {os.fsencode(path) for path in files()} == {b"\xe9t\xe9/" + name for name in names}
    assert scan(catalog, tier).changes == Applied()


def test_a_path_too_long_for_the_catalog_is_a_warning(catalog: Catalog, tier: LocalTier, files: Files) -> None:
    folder = tier.root
    for letter in "abcdefghijk":
        folder = folder / (letter * 250)
        folder.mkdir()
        (folder / "a.jpg").touch()
    for _ in range(2):
        report = scan(catalog, tier)
        assert report.skipped == {Skip.TOO_DEEP: 1} and report.warned == 1
        assert "too long" in report.warnings[0].reason
    assert len(files()) == 10


def test_a_sparse_file_is_tracked_with_its_length(catalog: Catalog, tier: LocalTier, files: Files, put: Put) -> None:
    os.truncate(put("a.jpg"), 1 << 32)
    scan(catalog, tier)
    assert files()["a.jpg"].size == 1 << 32


def test_what_the_configuration_excludes_is_never_looked_at_and_never_gone(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    for path in ("a.jpg", "@eaDir/a.jpg", "2019/@eaDir/thumb.jpg", "2019/b.jpg", "2019/b.tmp.jpg"):
        put(path)
    scan(catalog, tier)
    assert len(files()) == 5
    narrow = LocalTier(LocalTierSettings(name="photos", path=tier.root, exclude=("@eaDir/", "*.tmp.jpg")))
    report = scan(catalog, narrow)
    narrow.close()
    assert (report.files, report.changes) == (2, Applied())
    assert report.skipped == {Skip.EXCLUDED: 3}
    assert set(states(files).values()) == {"resident"}


def test_an_exclusion_can_take_a_path_back(catalog: Catalog, tier: LocalTier, files: Files, put: Put) -> None:
    for path in ("2019/a.jpg", "2019/best/b.jpg"):
        put(path)
    tier = LocalTier(LocalTierSettings(name="photos", path=tier.root, exclude=("2019/**", "!2019/best/**")))
    scan(catalog, tier)
    tier.close()
    assert list(files()) == ["2019/best/b.jpg"]


# -- when it was used --------------------------------------------------------------------------------------------------


def test_a_file_counts_as_used_when_it_was_read_or_written_last(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    put("read.jpg", mtime=1_400_000_000, atime=1_600_000_000)
    put("written.jpg", mtime=1_600_000_000, atime=1_400_000_000)
    put("from-the-future.jpg", mtime=9_000_000_000)
    scan(catalog, tier)
    assert files()["read.jpg"].accessed_at == files()["written.jpg"].accessed_at == 1_600_000_000
    assert abs(files()["from-the-future.jpg"].accessed_at - time.time()) < 60


def test_later_scans_only_move_the_last_use_forward(catalog: Catalog, tier: LocalTier, files: Files, put: Put) -> None:
    path = put("a.jpg", mtime=1_400_000_000, atime=1_500_000_000)
    put("b.jpg", mtime=1_400_000_000, atime=1_500_000_000)
    scan(catalog, tier)
    os.utime(path, (1_600_000_000, 1_400_000_000))
    assert scan(catalog, tier).changes == Applied()
    assert files()["a.jpg"].accessed_at == 1_600_000_000
    os.utime(path, (1_450_000_000, 1_400_000_000))
    scan(catalog, tier)
    assert [files()[name].accessed_at for name in ("a.jpg", "b.jpg")] == [1_600_000_000, 1_500_000_000]


def test_access_times_of_a_filesystem_that_does_not_keep_them_are_ignored(
    catalog: Catalog, make_disk: Callable[..., Disk]
) -> None:
    disk = make_disk(options="noatime")
    (disk.path / "a.jpg").touch()
    os.utime(disk.path / "a.jpg", (1_600_000_000, 1_400_000_000))
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    scan(catalog, tier)
    tier.close()
    assert [row.accessed_at for row in catalog.stream_files(None)] == [1_400_000_000]


# -- rescans -----------------------------------------------------------------------------------------------------------


def statements(catalog: Catalog, act: Callable[[], ScanReport]) -> tuple[ScanReport, list[str]]:
    said: list[str] = []

    def hear(*arguments: object) -> None:
        said.append(str(arguments[2]))

    event.listen(catalog._engine, "before_cursor_execute", hear)
    try:
        return act(), said
    finally:
        event.remove(catalog._engine, "before_cursor_execute", hear)


def test_an_unchanged_directory_costs_no_question_to_the_catalog(catalog: Catalog, tier: LocalTier, put: Put) -> None:
    for number in range(60):
        put(f"{number % 20}/{number}.jpg")
    scan(catalog, tier)
    _, few = statements(catalog, lambda: scan(catalog, tier))
    for number in range(60, 240):
        put(f"{number % 80}/{number}.jpg")
    scan(catalog, tier)
    report, many = statements(catalog, lambda: scan(catalog, tier))
    assert report.changes == Applied() and report.directories == 81
    assert len(many) == len(few) < 15
    assert not [statement for statement in many if "FROM file" in statement or "INTO file" in statement]


def test_what_happened_to_files_between_scans_is_seen(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    for name in ("kept", "written", "replaced", "renamed", "deleted"):
        put(f"2019/{name}.jpg")
    scan(catalog, tier)
    before = files()
    root = tier.root / "2019"
    put("2019/written.jpg", b"other words", mtime=1_700_000_000)
    put("2019/new.tmp", b"photograph")
    (root / "new.tmp").rename(root / "replaced.jpg")
    (root / "renamed.jpg").rename(root / "after.jpg")
    (root / "deleted.jpg").unlink()
    report = scan(catalog, tier)
    assert report.changes == Applied(new=1, changed=2, gone=2)
    assert states(files) == {
        "2019/kept.jpg": "resident",
        "2019/written.jpg": "resident",
        "2019/replaced.jpg": "resident",
        "2019/after.jpg": "resident",
        "2019/renamed.jpg": "gone",
        "2019/deleted.jpg": "gone",
    }
    assert files()["2019/kept.jpg"] == before["2019/kept.jpg"]
    assert files()["2019/written.jpg"].size == len(b"other words")
    assert files()["2019/replaced.jpg"].inode != before["2019/replaced.jpg"].inode
    assert scan(catalog, tier).changes == Applied()


def test_a_file_that_comes_back_is_the_same_file(catalog: Catalog, tier: LocalTier, files: Files, put: Put) -> None:
    path = put("2019/a.jpg")
    put("2019/b.jpg")
    scan(catalog, tier)
    known = files()["2019/a.jpg"]
    path.rename(path.with_suffix(".away"))
    assert scan(catalog, tier).changes == Applied(gone=1)
    path.with_suffix(".away").rename(path)
    assert scan(catalog, tier).changes == Applied(returned=1)
    assert files()["2019/a.jpg"] == known


def test_a_directory_that_vanishes_takes_all_below_it_along_and_may_come_back(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put, tmp_path: Path
) -> None:
    for path in ("2019/a.jpg", "2019/summer/b.jpg", "2019/summer/sea/c.jpg", "2020/d.jpg"):
        put(path)
    scan(catalog, tier)
    known = files()
    (tier.root / "2019").rename(tier.root / ".archiver" / "aside")
    assert scan(catalog, tier).changes == Applied(gone=3)
    assert states(files)["2020/d.jpg"] == "resident"
    (tier.root / ".archiver" / "aside").rename(tier.root / "2019")
    assert scan(catalog, tier).changes == Applied(returned=3)
    assert files() == known


def test_a_file_and_a_directory_can_take_each_others_place(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    put("a.jpg")
    put("b.jpg/inner.jpg")
    scan(catalog, tier)
    (tier.root / "a.jpg").unlink()
    (tier.root / "b.jpg/inner.jpg").unlink()
    (tier.root / "b.jpg").rmdir()
    put("a.jpg/inner.jpg")
    put("b.jpg")
    assert scan(catalog, tier).changes == Applied(new=2, gone=2)
    assert states(files) == {
        "a.jpg": "gone",
        "b.jpg/inner.jpg": "gone",
        "a.jpg/inner.jpg": "resident",
        "b.jpg": "resident",
    }


# -- a scan among others -----------------------------------------------------------------------------------------------


def test_a_stopped_scan_keeps_what_it_saw_and_does_not_count_as_the_first(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    for name in "abcd":
        put(f"{name}/1.jpg")
    stop = threading.Event()

    def stop_at_b(at: Progress) -> None:
        if at.path == "b":
            stop.set()

    report = scan(catalog, tier, progress=stop_at_b, stop=stop)
    assert not report.complete
    assert sorted(files()) == ["a/1.jpg", "b/1.jpg"]
    assert catalog.tiers()[0].first_scan_done_at is None
    assert scan(catalog, tier).changes == Applied(new=2)
    assert catalog.tiers()[0].first_scan_done_at is not None


def test_two_scans_of_one_tier_do_not_run_at_once(catalog: Catalog, tier: LocalTier, put: Put) -> None:
    put("a/1.jpg")
    scan(catalog, tier)
    refused: list[TierBeingScanned] = []
    other = LocalTier(tier.settings)  # as another process would have it

    def scan_too(at: Progress) -> None:
        try:
            scan_directory(catalog, other, "a")
        except TierBeingScanned as error:
            refused.append(error)

    scan(catalog, tier, progress=scan_too)
    other.close()
    assert len(refused) == 2
    scan_directory(catalog, tier, "a")


def test_one_directory_is_scanned_with_what_is_new_below_it(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    put("2019/a.jpg")
    put("2019/known/b.jpg")
    put("2020/c.jpg")
    scan(catalog, tier)
    put("2019/new/sub/d.jpg")
    put("2019/known/e.jpg")
    put("2019/f.jpg")
    put("2020/g.jpg")
    assert scan_directory(catalog, tier, "2019").changes == Applied(new=2)
    assert {"2019/f.jpg", "2019/new/sub/d.jpg"} <= files().keys()
    assert not {"2019/known/e.jpg", "2020/g.jpg"} & files().keys()
    assert scan(catalog, tier).changes == Applied(new=2)


def test_a_directory_that_is_gone_is_found_missing_from_above(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    path = put("2019/summer/sea/a.jpg")
    put("2019/b.jpg")
    scan(catalog, tier)
    path.unlink()
    (tier.root / "2019/summer/sea").rmdir()
    (tier.root / "2019/summer").rmdir()
    assert scan_directory(catalog, tier, "2019/summer/sea").changes == Applied(gone=1)
    assert states(files) == {"2019/summer/sea/a.jpg": "gone", "2019/b.jpg": "resident"}


def test_a_new_directory_in_new_directories_is_scanned_by_its_path(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    put("a.jpg")
    scan(catalog, tier)
    put("2019/summer/b.jpg")
    assert scan_directory(catalog, tier, "2019/summer").changes == Applied(new=1)
    assert scan(catalog, tier).changes == Applied()
    assert sorted(files()) == ["2019/summer/b.jpg", "a.jpg"]


def test_progress_tells_where_the_scan_is(catalog: Catalog, tier: LocalTier, put: Put) -> None:
    for path in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        put(path)
    heard: list[Progress] = []
    scan(catalog, tier, progress=heard.append)
    assert heard[-1] == Progress(files=3, directories=3, path="b")
    assert "3 files in 3 folders: 3 new; 0 warnings" in [row.detail for row in catalog.audit_rows()]


def test_a_read_only_or_full_disk_is_scanned_all_the_same(catalog: Catalog, small_disk: Disk) -> None:
    (small_disk.path / "a.jpg").touch()
    small_disk.remount("ro")
    tier = LocalTier(LocalTierSettings(name="photos", path=small_disk.path))
    assert scan(catalog, tier).changes == Applied(new=1)
    assert scan(catalog, tier).changes == Applied()
    tier.close()
    small_disk.remount("rw")
    (small_disk.path / "b.jpg").touch()
    small_disk.fill()
    assert scan(catalog, tier).changes == Applied(new=1)
    tier.close()


def test_a_disk_that_fails_is_a_named_error_and_nothing_is_gone(
    catalog: Catalog, faulty_disk: FaultyDisk, tmp_path: Path
) -> None:
    for name in ("1/a.jpg", "2/b.jpg"):
        (faulty_disk.path / name).parent.mkdir()
        (faulty_disk.path / name).touch()
    tier = LocalTier(LocalTierSettings(name="photos", path=faulty_disk.path))
    scan(catalog, tier)
    tier.close()
    run("umount", faulty_disk.path)  # and with it all that the kernel has in memory
    run("mount", "-o", "loop", tmp_path / "faulty-device" / "disk", faulty_disk.path)
    faulty_disk.fail_everything("read")
    try:
        report = scan(catalog, tier)
        assert report.warned and report.changes == Applied()
    except (TierUnreachable, InputOutputError):
        pass  # depending on what the kernel still had in memory
    finally:
        faulty_disk.heal()
    assert {row.state for row in catalog.stream_files(None)} == {State.RESIDENT}
    assert scan(catalog, tier).changes == Applied()
    tier.close()
