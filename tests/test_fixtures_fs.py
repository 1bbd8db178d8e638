"""The disks do what they promise; a test that leans on them proves nothing otherwise."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_fs import MIB, Disk, FaultyDisk

pytestmark = pytest.mark.root


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def test_a_full_disk_refuses_one_more_block(small_disk: Disk) -> None:
    ballast = small_disk.fill()
    with pytest.raises(OSError) as caught:
        write(small_disk.path / "one-more", bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    ballast.unlink()
    write(small_disk.path / "now", bytes(MIB))


def test_a_nearly_full_disk_has_about_what_was_left(small_disk: Disk) -> None:
    small_disk.fill(leave=MIB)
    assert 0.9 * MIB <= small_disk.free() <= MIB + 4096


def test_a_read_only_remount_refuses_writes_and_can_be_undone(small_disk: Disk) -> None:
    small_disk.remount("ro")
    with pytest.raises(OSError) as caught:
        write(small_disk.path / "file", b"x")
    assert caught.value.errno == errno.EROFS
    small_disk.remount("rw")
    write(small_disk.path / "file", b"x")


def test_disks_are_mounted_for_this_process_alone(make_disk: Callable[..., Disk]) -> None:
    disks = [make_disk(16 * MIB), make_disk(16 * MIB)]
    mine, first = (Path(f"/proc/{who}/mountinfo").read_text(encoding="utf-8") for who in ("self", "1"))
    for disk in disks:
        assert str(disk.path) in mine
        assert str(disk.path) not in first


def test_a_read_of_a_failing_place_is_an_io_error_and_of_others_is_not(faulty_disk: FaultyDisk) -> None:
    bad, good = faulty_disk.path / "bad", faulty_disk.path / "good"
    for path in (bad, good):
        write(path, os.urandom(MIB))
    faulty_disk.fail(bad, "read", offset=512 * 1024, length=4096)
    faulty_disk.forget(good)
    assert len(good.read_bytes()) == MIB
    with bad.open("rb") as file:
        assert len(file.read(256 * 1024)) == 256 * 1024
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 512 * 1024)
    assert caught.value.errno == errno.EIO
    faulty_disk.heal()
    assert len(bad.read_bytes()) == MIB


def test_a_write_to_a_failing_place_is_an_io_error_at_the_latest_when_synced(faulty_disk: FaultyDisk) -> None:
    path = faulty_disk.path / "file"
    write(path, os.urandom(MIB))
    faulty_disk.fail(path, "write", length=4096)
    with pytest.raises(OSError) as caught, path.open("r+b") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    assert caught.value.errno == errno.EIO


def test_a_power_cut_keeps_what_was_synced_and_may_lose_the_rest(
    faulty_disk: FaultyDisk, make_disk: Callable[..., Disk], tmp_path: Path
) -> None:
    synced = os.urandom(MIB)
    write(faulty_disk.path / "synced", synced)
    folder = os.open(faulty_disk.path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    write(faulty_disk.path / "unsynced", os.urandom(MIB), sync=False)
    for seed in range(3):
        after = make_disk(image=faulty_disk.power_cut(tmp_path / f"cut-{seed}.img", seed))
        assert (after.path / "synced").read_bytes() == synced
        # Its pages never left the cache of the running kernel, so a power cut leaves no trace of it.
        assert not (after.path / "unsynced").exists()
    assert (faulty_disk.path / "unsynced").exists()


def test_a_power_cut_tears_what_the_device_had_not_synced(
    faulty_disk: FaultyDisk, make_disk: Callable[..., Disk], tmp_path: Path
) -> None:
    path, old, new = faulty_disk.path / "file", b"\x00" * MIB, b"\xff" * MIB
    write(path, old)
    # O_DIRECT reaches the device at once, and nothing tells the device to sync.
    buffer = mmap.mmap(-1, MIB)
    buffer.write(new)
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    assert os.write(descriptor, buffer) == MIB
    left = [
        (make_disk(image=faulty_disk.power_cut(tmp_path / f"cut-{seed}.img", seed)).path / "file").read_bytes()
        for seed in range(3)
    ]
    assert any(data not in (old, new) for data in left)
    os.fdatasync(descriptor)
    os.close(descriptor)
    after = make_disk(image=faulty_disk.power_cut(tmp_path / "synced.img", 0))
    assert (after.path / "file").read_bytes() == new
