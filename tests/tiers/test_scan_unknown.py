"""Unknown is not absent: what a scan cannot see stays as the catalog knows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_fs import Disk, need_root, run

from archiver.catalog import Catalog
from archiver.catalog.rows import Act, Applied, FileRow, State
from archiver.catalog.schema import upgrade
from archiver.config import LocalTierSettings
from archiver.errors import TierNotScanned, TierUnreachable
from archiver.tiers import fileops, walk
from archiver.tiers.listing import Listing, Skip
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import Progress, scan, scan_directory

Files = Callable[[], dict[str, FileRow]]
Put = Callable[..., Path]


def states(files: Files) -> dict[str, str]:
    return {path: row.state.label for path, row in files().items()}


def test_an_unmounted_tier_is_unreachable_and_nothing_is_gone(catalog: Catalog, make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    for name in ("a.jpg", "b.jpg"):
        (disk.path / name).touch()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    scan(catalog, tier)
    tier.close()
    run("umount", disk.path)
    with pytest.raises(TierUnreachable):
        scan(catalog, tier)
    assert [row.state for row in catalog.stream_files(None)] == [State.RESIDENT] * 2
    assert not catalog.tiers()[0].reachable
    run("mount", "-o", "loop", disk.image, disk.path)
    assert scan(catalog, tier).changes == Applied()
    assert catalog.tiers()[0].reachable
    acts = [row.act for row in catalog.audit_rows()]
    assert acts.count(Act.UNREACHABLE) == acts.count(Act.REACHABLE) == 1
    tier.close()


def test_a_tier_that_is_unmounted_during_the_scan_loses_nothing(
    catalog: Catalog, make_disk: Callable[..., Disk]
) -> None:
    disk = make_disk()
    for name in ("1/a.jpg", "2/b.jpg"):
        (disk.path / name).parent.mkdir()
        (disk.path / name).touch()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    scan(catalog, tier)
    (disk.path / "1/a.jpg").unlink()  # this is really gone, but cannot be known for sure once the disk is away

    def unmount(at: Progress) -> None:
        if at.path == "1":
            run("umount", "--lazy", disk.path)

    with pytest.raises(TierUnreachable):
        scan(catalog, tier, progress=unmount)
    assert [row.state for row in catalog.stream_files(None)] == [State.RESIDENT] * 2
    tier.close()
    run("mount", "-o", "loop", disk.image, disk.path)
    assert scan(catalog, tier).changes == Applied(gone=1)
    tier.close()


def test_a_tier_whose_files_are_all_deleted_is_empty_not_unreachable(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    path = put("a.jpg")
    scan(catalog, tier)
    path.unlink()
    assert scan(catalog, tier).changes == Applied(gone=1)


def test_an_empty_folder_is_not_taken_for_a_tier(
    catalog: Catalog, make_disk: Callable[..., Disk], tmp_path: Path
) -> None:
    disk = make_disk()
    (disk.path / "a.jpg").touch()
    run("umount", disk.path)
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    report = scan(catalog, tier)
    assert not report.complete and report.warned == 1
    assert catalog.tiers()[0].first_scan_done_at is None
    assert not os.listdir(disk.path)
    with pytest.raises(TierNotScanned):
        scan_directory(catalog, tier, "")
    run("mount", "-o", "loop", disk.image, disk.path)
    assert scan(catalog, tier).changes == Applied(new=1)  # and the disk is the tier, not a stranger
    assert catalog.tiers()[0].first_scan_done_at is not None
    tier.close()


def test_mounts_inside_a_tier_are_left_alone_and_hide_nothing(
    catalog: Catalog,
    tier: LocalTier,
    files: Files,
    put: Put,
    private_mounts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in ("disk/a.jpg", "bound/b.jpg", "elsewhere/c.jpg"):
        put(path)
    scan(catalog, tier)
    run("mount", "-t", "tmpfs", "none", tier.root / "disk")
    run("mount", "--bind", tier.root / "elsewhere", tier.root / "bound")
    put("disk/x.jpg")
    put("elsewhere/d.jpg")
    report = scan(catalog, tier)
    assert report.skipped == {Skip.MOUNT: 2}
    assert report.changes == Applied(new=1)
    assert states(files) == dict.fromkeys(
        ["disk/a.jpg", "bound/b.jpg", "elsewhere/c.jpg", "elsewhere/d.jpg"], "resident"
    )
    run("umount", tier.root / "bound")
    monkeypatch.setattr(walk, "mounts_below", lambda _root: frozenset())  # as for a subvolume of btrfs
    report = scan(catalog, tier)
    assert report.skipped == {Skip.MOUNT: 1} and report.changes == Applied()
    run("umount", tier.root / "disk")


def as_user(user: int, body: Callable[[], None]) -> None:
    """Run `body` in a child process of another user; raises AssertionError with its complaint if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            body()
            os._exit(0)
        except BaseException as error:
            os.write(writer, repr(error).encode())
            os._exit(1)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as complaint:
        assert status == 0, complaint.read()


def test_a_folder_that_may_not_be_read_is_a_warning_and_nothing_in_it_is_gone(
    ext4: Path, folder: Path, put: Put, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need_root()
    state = folder / "state"
    root = folder / "tier"
    for path in ("tier/open/a.jpg", "tier/closed/b.jpg", "tier/closed/inner/c.jpg", "tier/unsearchable/d.jpg"):
        put(path)
    state.mkdir()
    url = f"sqlite:///{state}/catalog.db"
    upgrade(url)  # here, for the migrations may lie where that user cannot read
    for path in (state, *state.iterdir(), *root.rglob("*"), root):
        os.chown(path, 1234, 1234)
    for path in ext4.parents:
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o711)  # pytest's folders are the owner's alone

    def check() -> None:
        with Catalog.open(url) as catalog:
            tier = LocalTier(LocalTierSettings(name="photos", path=root))
            assert scan(catalog, tier).files == 4
            (root / "open/a.jpg").unlink()
            (root / "closed").chmod(0o000)
            (root / "unsearchable").chmod(0o400)
            report = scan(catalog, tier)
            assert report.complete and report.changes == Applied(gone=1), report
            warned = {warning.path for warning in report.warnings}
            assert warned == {f"{root}/closed", f"{root}/unsearchable"}, report
            assert report.skipped == {Skip.UNREADABLE: 2}
            assert {row.path for row in catalog.stream_files(None, [State.RESIDENT])} == {
                "closed/b.jpg",
                "closed/inner/c.jpg",
                "unsearchable/d.jpg",
            }
            (root / "closed").chmod(0o700)
            (root / "unsearchable").chmod(0o700)
            report = scan(catalog, tier)
            assert report.changes == Applied() and not report.warned, report

    as_user(1234, check)


def test_directories_that_vanish_or_appear_during_the_walk_do_no_harm(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    for name in "abc":
        put(f"{name}/1.jpg")
    scan(catalog, tier)

    def disturb(at: Progress) -> None:
        if at.path == "a":
            (tier.root / "b/1.jpg").unlink()
            (tier.root / "b").rmdir()
            (tier.root / "c").rename(tier.root / "z")

    report = scan(catalog, tier, progress=disturb)
    assert report.complete and not report.warned
    assert scan(catalog, tier).changes == Applied(new=1, gone=2)
    assert states(files) == {"a/1.jpg": "resident", "b/1.jpg": "gone", "c/1.jpg": "gone", "z/1.jpg": "resident"}


def test_a_stale_listing_changes_nothing(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a listing said is looked at again before the catalog is told; a file may be exchanged in between."""
    put("a.jpg", b"original")
    put("b.jpg", b"original")
    scan(catalog, tier)
    before = files()
    put("a.jpg", b"some other original", mtime=1_700_000_000)
    (tier.root / "b.jpg").rename(tier.root / ".archiver/b")
    read = walk.list_directory

    def slow(fd: int, keep_atime: bool) -> Listing:
        listing = read(fd, keep_atime)
        put("a.jpg", b"a third version", mtime=1_800_000_000)
        (tier.root / ".archiver/b").rename(tier.root / "b.jpg")
        return listing

    monkeypatch.setattr(walk, "list_directory", slow)
    assert scan(catalog, tier).changes == Applied()
    assert files() == before
    monkeypatch.undo()
    assert scan(catalog, tier).changes == Applied(changed=1)
    assert files()["a.jpg"].size == len(b"a third version")


def test_a_file_that_an_act_is_changing_is_left_to_it(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put
) -> None:
    path = put("a.jpg", b"original")
    scan(catalog, tier)
    before = files()
    entry = f"{path.stat().st_ino:x}-release"
    os.close(fileops.open_file(tier.journal_fd, entry, os.O_WRONLY | os.O_CREAT))
    put("placeholder", b"placeholder", mtime=1_500_000_000)
    fileops.exchange(tier.root_fd, "a.jpg", tier.root_fd, "placeholder")
    assert scan(catalog, tier).changes == Applied()
    path.unlink()
    assert scan(catalog, tier).changes == Applied()
    assert files() == before
    os.unlink(entry, dir_fd=tier.journal_fd)
    assert scan(catalog, tier).changes == Applied(gone=1)
