"""File operations that keep their promises against symlinks, other openers and crashes of order."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_fs import Disk, need_root

from archiver.errors import FileOpen, NotInAnyTier, NotRegular, from_os_error
from archiver.tiers import fileops


@pytest.fixture
def root_fd(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_directory_is_opened_below_the_root(folder: Path, root_fd: int) -> None:
    (folder / "2019" / "März").mkdir(parents=True)
    for relative in ("2019/März", os.fsencode("2019/März")):
        fd = fileops.open_directory(root_fd, relative)
        assert os.fstat(fd).st_ino == (folder / "2019" / "März").stat().st_ino
        os.close(fd)
    fd = fileops.open_directory(root_fd, "")
    assert os.fstat(fd).st_ino == folder.stat().st_ino
    os.close(fd)


@pytest.mark.parametrize("relative", ["..", "2019/../..", "/etc", "2019//März", "./2019", "2019/", "a\0b"])
def test_a_path_that_may_leave_the_root_is_refused(folder: Path, root_fd: int, relative: str) -> None:
    (folder / "2019").mkdir()
    with pytest.raises(NotInAnyTier):
        fileops.open_directory(root_fd, relative)


@pytest.mark.parametrize("relative", ["2019", "2019/inner"])
def test_a_symlink_swapped_into_the_path_does_not_lead_out(
    folder: Path, root_fd: int, tmp_path: Path, relative: str
) -> None:
    (tmp_path / "inner").mkdir()
    (folder / "2019").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError) as caught:
        fileops.open_directory(root_fd, relative)
    assert caught.value.filename == f"{folder}/{relative}"


def test_a_symlink_in_place_of_a_file_is_refused(folder: Path, root_fd: int, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "a.jpg").symlink_to(tmp_path / "secret")
    with pytest.raises(NotRegular):
        fileops.open_file(root_fd, "a.jpg")
    with pytest.raises(NotInAnyTier):
        fileops.open_file(root_fd, "../a.jpg")


def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path, root_fd: int) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "folder.jpg"):
        with pytest.raises(NotRegular):
            fileops.open_file(root_fd, name)
        with pytest.raises(NotRegular):
            fileops.open_file(root_fd, name, os.O_WRONLY)


def test_reading_leaves_the_access_time_alone(folder: Path, root_fd: int) -> None:
    (folder / "a.jpg").write_bytes(b"photograph")
    os.utime(folder / "a.jpg", ns=(10**18, 2 * 10**18))  # read before it was written: relatime would move it
    fd = fileops.open_file(root_fd, b"a.jpg")
    assert os.read(fd, 100) == b"photograph"
    os.close(fd)
    assert (folder / "a.jpg").stat().st_atime_ns == 10**18


def test_a_file_of_somebody_else_can_still_be_read(folder: Path) -> None:
    need_root()
    (folder / "a.jpg").write_bytes(b"photograph")
    folder.chmod(0o755)
    (folder / "a.jpg").chmod(0o644)
    read = "import os, sys; from archiver.tiers import fileops; d = os.open(sys.argv[1], os.O_RDONLY)\n"
    read += "os.seteuid(65534); print(os.read(fileops.open_file(d, 'a.jpg'), 100).decode())"
    answer = subprocess.run([sys.executable, "-c", read, folder], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "photograph"


def test_a_missing_file_is_named(folder: Path, root_fd: int) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fileops.open_file(root_fd, "gone.jpg")
    assert from_os_error(caught.value).message == f"{folder}/gone.jpg is no longer there"


# -- names -------------------------------------------------------------------------------------------------------------


def test_exchange_swaps_two_names_and_a_reader_never_sees_neither(folder: Path, root_fd: int) -> None:
    (folder / "held").mkdir()
    (folder / "a.jpg").write_bytes(b"original")
    (folder / "held" / "1").write_bytes(b"placeholder")
    held_fd = fileops.open_directory(root_fd, "held")
    seen: set[bytes] = set()
    missing: list[OSError] = []
    stop = threading.Event()
    looked = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                seen.add((folder / "a.jpg").read_bytes())
            except OSError as error:
                missing.append(error)
            if len(seen) == 2:
                looked.set()

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(2000):
        fileops.exchange(root_fd, "a.jpg", held_fd, "1")
        fileops.exchange(root_fd, b"a.jpg", held_fd, b"1")
    while not looked.is_set():
        fileops.exchange(root_fd, "a.jpg", held_fd, "1")
    stop.set()
    reader.join()
    os.close(held_fd)
    assert seen == {b"original", b"placeholder"} and not missing


def test_exchange_with_a_missing_name_changes_nothing(folder: Path, root_fd: int) -> None:
    (folder / "a.jpg").write_bytes(b"original")
    with pytest.raises(FileNotFoundError) as caught:
        fileops.exchange(root_fd, "a.jpg", root_fd, "b.jpg")
    assert caught.value.filename2 == f"{folder}/b.jpg"
    assert os.listdir(folder) == ["a.jpg"]


def test_rename_never_replaces(folder: Path, root_fd: int) -> None:
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "b.jpg").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        fileops.rename_noreplace(root_fd, "a.jpg", root_fd, "b.jpg")
    fileops.rename_noreplace(root_fd, "a.jpg", root_fd, "c.jpg")
    assert (folder / "c.jpg").read_bytes() == b"a" and (folder / "b.jpg").read_bytes() == b"b"


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_a_lease_refuses_a_file_that_another_process_has_open(folder: Path, flags: int) -> None:
    path = folder / "a.jpg"
    fd = opened(path, os.O_RDONLY)
    hold = "import os, sys; os.open(sys.argv[1], int(sys.argv[2])); print('open', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, path, str(flags)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    with pytest.raises(FileOpen, match="is open"), fileops.write_lease(fd, path):
        pass
    other.communicate()
    with fileops.write_lease(fd, path) as lease:
        assert not lease.broken
    assert not lease.broken
    os.close(fd)


def test_an_opener_waits_for_the_lease_and_breaks_it_without_killing_us(folder: Path) -> None:
    path = folder / "a.jpg"
    path.write_bytes(b"original")
    fd = opened(path, os.O_RDONLY)
    with fileops.write_lease(fd, path) as lease:
        reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
        while not lease.broken:
            os.sched_yield()
        assert reader.poll() is None
    assert lease.broken
    assert reader.communicate()[0] == b"original"
    with fileops.write_lease(fd, path) as lease:  # and the next one starts afresh
        assert not lease.broken
    os.close(fd)


def test_a_lease_is_broken_by_truncation_but_not_by_our_exchange(folder: Path, root_fd: int) -> None:
    path = folder / "a.jpg"
    (folder / "b.jpg").write_bytes(b"placeholder")
    fd = opened(path, os.O_RDONLY)
    with fileops.write_lease(fd, path) as lease:
        fileops.exchange(root_fd, "a.jpg", root_fd, "b.jpg")
        assert not lease.broken
        writer = subprocess.Popen(
            [sys.executable, "-c", "import os, sys; os.truncate(sys.argv[1], 0)", folder / "b.jpg"]
        )
        while not lease.broken:
            os.sched_yield()
    assert writer.wait() == 0
    os.close(fd)


def test_a_lease_works_in_any_thread(folder: Path) -> None:
    fd = opened(folder / "a.jpg", os.O_RDONLY)
    broken: list[bool] = []

    def lease() -> None:
        with fileops.write_lease(fd, folder / "a.jpg") as held:
            reader = subprocess.Popen(["cat", folder / "a.jpg"])
            while not held.broken:
                os.sched_yield()
        reader.wait()
        broken.append(held.broken)

    thread = threading.Thread(target=lease)
    thread.start()
    thread.join()
    os.close(fd)
    assert broken == [True]


def test_a_file_under_a_foreign_lease_is_open_to_us_and_we_do_not_wait(folder: Path, root_fd: int) -> None:
    (folder / "a.jpg").write_bytes(b"original")
    samba = "import fcntl, os, signal, sys; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.fcntl(f, fcntl.F_SETSIG, 23)\n"
    samba += "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('leased', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", samba, folder / "a.jpg"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "leased\n"
    with pytest.raises(FileOpen):
        fileops.open_file(root_fd, "a.jpg")
    other.communicate()


# -- content and attributes --------------------------------------------------------------------------------------------


def test_punch_gives_blocks_back_and_keeps_the_length(folder: Path) -> None:
    fd = opened(folder / "a.jpg")
    os.write(fd, b"x" * 65536)
    os.fsync(fd)
    assert fileops.allocated_bytes(fd) == 65536
    fileops.punch(fd, 4096, 65536 - 4096)
    os.fsync(fd)
    assert fileops.allocated_bytes(fd) == 4096
    assert os.fstat(fd).st_size == 65536
    assert os.pread(fd, 65536, 0) == b"x" * 4096 + bytes(61440)
    os.close(fd)


def test_punching_from_an_offset_frees_the_last_block_too(folder: Path) -> None:
    fd = opened(folder / "a.jpg")
    os.write(fd, b"x" * 70_001)
    os.fsync(fd)
    fileops.punch_from(fd, 4096)
    os.fsync(fd)
    assert fileops.allocated_bytes(fd) == 4096
    assert os.fstat(fd).st_size == 70_001
    os.close(fd)


def test_the_hash_is_that_of_the_whole_file_and_moves_nothing(folder: Path) -> None:
    fd = opened(folder / "a.jpg")
    content = os.urandom(3 * (1 << 20) + 17)
    os.write(fd, content)
    os.lseek(fd, 5, os.SEEK_SET)
    assert fileops.sha256_of(fd) == hashlib.sha256(content).digest() == fileops.sha256_of(fd, evict=True)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 5
    os.close(fd)


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel keeps it: version 2, then (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
OWNER_GROUP_OTHER_AND_USER_1234 = access_list(
    (0x01, 6, NOBODY), (0x02, 4, 1234), (0x04, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)
)


def facts(fd: int) -> tuple[object, ...]:
    stat = os.fstat(fd)
    return stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns, stat.st_atime_ns, fileops.xattrs(fd)


def test_attributes_are_copied_to_the_last_one(folder: Path) -> None:
    source, target = opened(folder / "source.jpg"), opened(folder / "target.jpg")
    os.setxattr(source, "user.xdg.tags", b"holiday,beach")
    os.setxattr(source, "user.empty", b"")
    os.setxattr(source, "system.posix_acl_access", OWNER_GROUP_OTHER_AND_USER_1234)
    os.setxattr(target, "user.stale", b"must go")
    os.utime(source, ns=(1_000_000_000_123_456_789, 1_111_111_111_987_654_321))
    fileops.copy_attributes(source, target)
    assert facts(target) == facts(source)
    assert fileops.xattrs(target)["system.posix_acl_access"] == OWNER_GROUP_OTHER_AND_USER_1234
    os.close(source)
    os.close(target)


def test_owner_setuid_bits_and_security_labels_survive_the_copy(folder: Path) -> None:
    need_root()
    source, target = opened(folder / "source.jpg"), opened(folder / "target.jpg")
    os.fchown(source, 1234, 4321)
    os.fchmod(source, 0o6751)
    os.setxattr(source, "trusted.backup", b"7")
    os.setxattr(source, "security.capability", struct.pack("<5I", 0x02000000, 1 << 10, 0, 0, 0))
    fileops.copy_attributes(source, target)
    assert facts(target) == facts(source)
    assert os.fstat(target).st_mode & 0o7777 == 0o6751
    assert "security.capability" in fileops.xattrs(target)
    os.close(source)
    os.close(target)


def test_an_acl_that_the_folder_gave_is_taken_away_again(folder: Path) -> None:
    source = opened(folder / "source.jpg")
    os.fchmod(source, 0o640)
    os.setxattr(folder, "system.posix_acl_default", OWNER_GROUP_OTHER_AND_USER_1234)
    target = opened(folder / "target.jpg")
    assert "system.posix_acl_access" in fileops.xattrs(target)
    fileops.copy_attributes(source, target)
    assert facts(target) == facts(source)
    os.close(source)
    os.close(target)


def test_an_owner_that_cannot_be_kept_is_an_error_with_the_path(folder: Path) -> None:
    need_root()
    source, target = opened(folder / "source.jpg"), opened(folder / "target.jpg")
    os.fchown(source, 1234, 1234)
    os.fchown(target, 65534, 65534)
    copy = "import os, sys; from archiver.tiers import fileops; os.seteuid(65534)\n"
    copy += "try: fileops.copy_attributes(int(sys.argv[1]), int(sys.argv[2]))\n"
    copy += "except PermissionError as error: print(error.filename)"
    answer = subprocess.run(
        [sys.executable, "-c", copy, str(source), str(target)],
        capture_output=True, text=True, check=True, pass_fds=(source, target),
    )  # fmt: skip
    assert answer.stdout.strip() == f"{folder}/target.jpg"
    os.close(source)
    os.close(target)


def test_a_full_and_a_read_only_disk_are_named(small_disk: Disk) -> None:
    small_disk.fill()
    fd = opened(small_disk.path / "a.jpg")
    with pytest.raises(OSError) as full:
        os.write(fd, bytes(1 << 20))
        os.write(fd, bytes(1 << 20))
    os.close(fd)
    small_disk.remount("ro")
    directory = os.open(small_disk.path, os.O_RDONLY)
    with pytest.raises(OSError) as readonly:
        fileops.open_file(directory, "b.jpg", os.O_RDWR | os.O_CREAT)
    os.close(directory)
    assert from_os_error(full.value, small_disk.path / "a.jpg").message == f"{small_disk.path}/a.jpg: no space left"
    assert from_os_error(readonly.value).message == f"{small_disk.path}/b.jpg: the filesystem is read-only"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (errno.EIO, "InputOutputError"),
        (errno.EDQUOT, "DiskFull"),
        (errno.EPERM, "PermissionRefused"),
        (errno.EBUSY, "SystemRefused"),
    ],
)
def test_every_system_error_has_a_class_a_hint_and_exit_code_7(code: int, name: str) -> None:
    failure = from_os_error(OSError(code, os.strerror(code), b"/tier/a\xff.jpg"))
    assert (type(failure).__name__, failure.exit_code) == (name, 7)
    assert failure.hint and "/tier/a\udcff.jpg" in failure.message
