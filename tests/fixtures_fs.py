"""Disks of a test's own: real ext4 on loop devices that can be filled, turned read-only, made to fail, or lose power.

A pytest plugin: tests/conftest.py loads it, any test asks for `make_disk`, `small_disk` or `faulty_disk`.

Mounts live in a mount namespace that only this process and the programs it starts are in, and every loop device is
bound to its mount: when the process ends, however it ends, the kernel takes all of it down. It also keeps parallel
test processes apart.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import pytest

MIB = 1 << 20
_CLONE_NEWNS = 0x00020000
_CAP_SYS_ADMIN = 21


def unavailable(what: str) -> NoReturn:
    """Skip the running test, or fail it where nothing may be skipped ($ARCHIVER_TEST_REQUIRE)."""
    if os.environ.get("ARCHIVER_TEST_REQUIRE"):
        pytest.fail(f"ARCHIVER_TEST_REQUIRE is set and {what}")
    pytest.skip(what)


def need_programs(*names: str) -> None:
    """Skip (or fail) unless every program is on the PATH."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    if missing := [name for name in names if shutil.which(name, path=path) is None]:
        unavailable(f"{', '.join(missing)} not found")


def need_root() -> None:
    """Skip (or fail) unless this process may mount."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    if os.geteuid() != 0 or not effective >> _CAP_SYS_ADMIN & 1:
        unavailable("mounting needs root with CAP_SYS_ADMIN")


def run(*command: str | Path) -> str:
    """Standard output of a command; its error output is in the message if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def enter_private_mounts() -> None:
    """Move this thread and all it starts from now on to a mount namespace of their own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare(CLONE_NEWNS): {os.strerror(code)}")
    run("mount", "--make-rprivate", "/")


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted ext4 filesystem of its own.

    path: where it is mounted. image: the file behind the loop device.
    """

    path: Path
    image: Path

    def free(self) -> int:
        """Bytes that can still be written."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def extents(self, path: Path) -> list[tuple[int, int, int]]:
        """Where a file's data lies: offset in the file, offset on the device, length; bytes.

        The number of its blocks says less: ext4 puts this list into a block of its own when it has more than four
        entries, and keeps that block when it has fewer again.
        """
        return list(_extents(path))

    def fill(self, leave: int = 0) -> Path:
        """Take all the space but `leave` bytes (about: in whole blocks); delete the returned file to give it back."""
        ballast = self.path / "ballast"
        with ballast.open("ab") as file:
            step = max(self.free() - leave, 0)
            while step >= 512:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                else:
                    step = min(step, max(self.free() - leave, 0))
        return ballast

    def remount(self, mode: Literal["ro", "rw"]) -> None:
        """Turn the filesystem read-only or writable again under whoever uses it."""
        run("mount", "-o", f"remount,{mode}", self.path)

    def forget(self, path: Path) -> None:
        """Drop a file's pages from the cache, so that the next read goes to the device."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class FaultyDisk(Disk):
    """A disk whose device can be told to fail at chosen places, and may lose power and with it unsynced writes."""

    server: subprocess.Popen[str]

    def fail(self, path: Path, operation: Literal["read", "write"], offset: int = 0, length: int | None = None) -> None:
        """From now on the device answers EIO where it holds these bytes of a file (without a length: up to its end)."""
        self.forget(path)
        end = path.stat().st_size if length is None else offset + length
        for logical, physical, size in _extents(path):
            first, last = max(offset, logical), min(end, logical + size)
            if first < last:
                self.tell(f"fail {operation} {physical + first - logical} {last - first}")

    def fail_everything(self, operation: Literal["read", "write"]) -> None:
        """From now on the whole device answers EIO."""
        self.tell(f"fail {operation} 0 {self.image.stat().st_size}")

    def heal(self) -> None:
        """The device works again."""
        self.tell("heal")

    def power_cut(self, copy: Path, seed: int) -> Path:
        """What a loss of power would leave at this moment: all synced writes, and of the others those the seed picks.

        The disk itself goes on. `copy` is an image for `make_disk(image=copy)`.
        """
        self.tell(f"cut {seed} {copy}")
        return copy

    def tell(self, command: str) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(command + "\n")
        self.server.stdin.flush()
        if (answer := self.server.stdout.readline().strip()) != "ok":
            raise RuntimeError(f"the faulty disk answered {answer!r} to {command!r}")


def _extents(path: Path) -> Iterator[tuple[int, int, int]]:
    """Where a file lies: offset in the file, offset on the device, length; bytes."""
    listing = run("filefrag", "-s", "-e", "-b1", path)
    for line in listing.splitlines():
        # ext: logical first.. last: physical first.. last: length: expected: flags
        fields = [field.strip() for field in line.split(":")]
        if fields[0].isdigit():
            yield int(fields[1].split("..")[0]), int(fields[2].split("..")[0]), int(fields[3])


def _create_image(image: Path, size: int) -> None:
    with image.open("xb") as file:
        file.truncate(size)


def _format(image: Path) -> None:
    # No reserved blocks, so that full is full for root too; tables written now, so that nothing writes later on.
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image)


def _mount(image: Path, where: Path, cleanup: ExitStack, options: str) -> None:
    where.mkdir()
    run("mount", "-t", "ext4", "-o", ",".join(filter(None, ["loop", options])), image, where)
    # Lazily: a test that failed may have left a program there. The loop device goes with the mount.
    cleanup.callback(run, "umount", "--lazy", where)


@pytest.fixture
def private_mounts() -> None:
    """Mounts made by this test are nobody else's."""
    need_root()
    enter_private_mounts()


@pytest.fixture
def make_disk(tmp_path: Path, private_mounts: None) -> Iterator[Callable[..., Disk]]:
    """make_disk(size=bytes, options="mount options", image=an existing one) -> Disk"""
    need_programs("mkfs.ext4", "mount", "losetup")
    with ExitStack() as cleanup:
        made = 0

        def make(size: int = 64 * MIB, options: str = "", image: Path | None = None) -> Disk:
            nonlocal made
            made += 1
            if image is None:
                image = tmp_path / f"disk-{made}.img"
                _create_image(image, size)
                _format(image)
            disk = Disk(tmp_path / f"disk-{made}", image)
            _mount(image, disk.path, cleanup, options)
            return disk

        yield make


@pytest.fixture
def small_disk(make_disk: Callable[..., Disk]) -> Disk:
    """16 MiB: full in no time."""
    return make_disk(16 * MIB)


@pytest.fixture
def faulty_disk(tmp_path: Path, private_mounts: None) -> Iterator[FaultyDisk]:
    """64 MiB whose device fails on request (tests/faulty_device.py says how)."""
    need_programs("mkfs.ext4", "mount", "losetup", "filefrag")
    if not Path("/dev/fuse").exists():
        unavailable("the kernel has no FUSE")
    image, device = tmp_path / "faulty.img", tmp_path / "faulty-device"
    _create_image(image, 64 * MIB)
    _format(image)
    device.mkdir()
    with ExitStack() as cleanup:
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("faulty_device.py")), str(image), str(device)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        cleanup.callback(server.wait)
        assert server.stdin is not None
        cleanup.callback(server.stdin.close)
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            unavailable("the FUSE library (libfuse3) is not installed")
        disk = FaultyDisk(tmp_path / "faulty", image, server)
        cleanup.callback(run, "umount", "--lazy", device)
        _mount(device / "disk", disk.path, cleanup, "")
        yield disk
