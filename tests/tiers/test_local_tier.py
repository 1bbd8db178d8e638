"""A tier is there or it is not; it is never empty because its disk is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_fs import Disk, need_root, run

from archiver.config import LocalTierSettings
from archiver.errors import FolderOfAnother, SystemRefused, TierUnreachable
from archiver.tiers import fileops
from archiver.tiers.local import Abilities, Identity, LocalTier


def test_an_unmounted_disk_is_unreachable_not_empty(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    tier.expect(str(tier.check()))
    assert os.listdir(tier.root_fd)
    tier.close()  # and nothing of it keeps the disk busy
    run("umount", disk.path)
    assert disk.path.is_dir() and not os.listdir(disk.path)
    with pytest.raises(TierUnreachable, match="another folder or filesystem"):
        tier.check()
    with pytest.raises(TierUnreachable):
        _ = tier.root_fd
    run("mount", "-o", "loop", disk.image, disk.path)  # and it is the same tier again, on whatever device it is now
    tier.check()
    tier.close()


def test_another_disk_at_the_same_place_is_not_the_tier(make_disk: Callable[..., Disk]) -> None:
    first, second = make_disk(), make_disk()
    tier = LocalTier(LocalTierSettings(name="photos", path=first.path))
    tier.expect(str(tier.check()))
    run("umount", first.path)
    run("mount", "-o", "loop", second.image, first.path)
    with pytest.raises(TierUnreachable):
        tier.check()
    run("umount", first.path)
    run("mount", "-o", "loop", first.image, first.path)


def test_a_disk_that_was_mounted_anew_under_an_open_tier_is_not_what_is_in_use(
    make_disk: Callable[..., Disk], tmp_path: Path
) -> None:
    disk = make_disk()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    tier.expect(str(tier.check()))
    assert os.listdir(tier.root_fd)
    os.sync()
    run("umount", "--lazy", disk.path)  # as when its cable is pulled out: what is open stays so
    copy = shutil.copyfile(disk.image, tmp_path / "copy")  # of the same UUID
    run("mount", "-o", "loop", copy, disk.path)
    with pytest.raises(TierUnreachable, match="not what is in use"):
        tier.check()
    tier.close()
    tier.check()


def test_a_tier_is_the_same_by_whatever_mount_of_it(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    tier.expect(str(tier.check()))
    assert os.listdir(tier.root_fd)
    run("mount", "--bind", disk.path, disk.path)
    tier.check()
    run("umount", disk.path)
    tier.check()
    tier.close()


def test_a_folder_that_is_gone_or_was_replaced_is_unreachable(tier: LocalTier, folder: Path) -> None:
    tier.expect(str(tier.check()))
    folder.rename(folder.with_suffix(".away"))
    with pytest.raises(TierUnreachable, match="No such file"):
        tier.check()
    folder.mkdir()
    with pytest.raises(TierUnreachable, match="another folder"):
        tier.check()
    folder.rmdir()
    folder.touch()
    with pytest.raises(TierUnreachable, match="Not a directory"):
        tier.check()
    folder.unlink()
    folder.with_suffix(".away").rename(folder)
    tier.check()


def test_the_uuid_decides_where_both_kernels_knew_it() -> None:
    old, new = Identity("", "a1", 2), Identity("0102", "a1", 2)
    assert Identity.parse(str(new)) == new and Identity.parse(str(old)) == old
    assert old.is_same(new) and new.is_same(old)
    assert new.is_same(Identity("0102", "b7", 2))  # the device has another number since the last start
    assert not new.is_same(Identity("0304", "a1", 2))
    assert not new.is_same(Identity("0102", "a1", 3))


def test_our_area_is_private_and_made_when_first_needed(tier: LocalTier, folder: Path) -> None:
    assert not tier.has_area() and not tier.inodes_under_way()
    assert not os.listdir(folder)
    assert tier.holding_fd == tier.holding_fd
    assert tier.has_area()
    for path in (folder / ".archiver", folder / ".archiver" / "holding"):
        assert path.stat().st_mode & 0o777 == 0o700


def test_an_area_that_got_readable_is_closed_again(tier: LocalTier, folder: Path) -> None:
    (folder / ".archiver").mkdir()
    (folder / ".archiver").chmod(0o755)
    assert tier.journal_fd
    assert (folder / ".archiver").stat().st_mode & 0o777 == 0o700


def test_an_area_made_by_somebody_else_is_refused(tier: LocalTier, folder: Path) -> None:
    need_root()
    (folder / ".archiver").mkdir(mode=0o700)
    os.chown(folder / ".archiver", 1234, 1234)
    with pytest.raises(FolderOfAnother, match="belongs to user 1234"):
        _ = tier.holding_fd


def test_an_area_that_is_a_symlink_is_refused(tier: LocalTier, folder: Path, tmp_path: Path) -> None:
    (folder / ".archiver").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        _ = tier.holding_fd
    assert not os.listdir(tmp_path)


def test_an_area_on_another_filesystem_is_refused(make_disk: Callable[..., Disk], tmp_path: Path) -> None:
    disk = make_disk()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    (disk.path / ".archiver").mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "mode=0700", "none", disk.path / ".archiver")
    with pytest.raises(SystemRefused, match="another filesystem"):
        _ = tier.holding_fd
    run("umount", disk.path / ".archiver")
    tier.close()


def test_acts_under_way_are_told_by_their_inode(tier: LocalTier) -> None:
    for name in ("1f-release", "a0-recall", ".2b-undo.part"):
        os.close(fileops.open_file(tier.journal_fd, name, os.O_WRONLY | os.O_CREAT))
    assert tier.inodes_under_way() == {0x1F, 0xA0}


def test_abilities_are_tried_out_and_nothing_stays_behind(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    assert tier.probe() == Abilities(
        filesystem="ext4", writable=True, xattr=True, lease=True, punch_hole=True, exchange=True, atime=True
    )
    assert not os.listdir(disk.path / ".archiver")
    tier.close()
    disk.remount("ro")
    read_only = tier.probe()
    assert not read_only.writable and not read_only.atime and read_only.filesystem == "ext4"
    tier.close()


def test_a_filesystem_without_access_times_is_known(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(options="noatime")
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    assert not tier.keeps_atime()
    tier.close()


def test_space_is_that_of_the_tiers_filesystem(small_disk: Disk) -> None:
    tier = LocalTier(LocalTierSettings(name="photos", path=small_disk.path))
    before = tier.space()
    assert 0.0 <= before.used_share < 0.5
    small_disk.fill()
    after = tier.space()
    assert after.total == before.total and after.free < 65536 and after.used_share > 0.99
    tier.close()
