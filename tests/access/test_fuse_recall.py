"""Reading a released file on a mount generates its image; nothing else does, and nobody waits for others."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from archiver.catalog.rows import Act
from archiver.desk import client
from archiver.formats import Kind
from archiver.lifecycle.opening import open_site
from tests.access.fuse_mount import Mount, blocked, mounted
from tests.access.released import Released, kind_in, kind_of
from tests.access.watching import until
from tests.lifecycle.conftest import decoded

pytestmark = pytest.mark.root
_SOON = 20  # seconds within which what must not wait has happened, on a busy machine


@pytest.fixture(scope="module")
def mount(tier: Released) -> Iterator[Mount]:
    with mounted(tier.config, tier.root, tier.root.parent / "seen", "-o", "allow_other") as mount:
        yield mount


@contextmanager
def acted_upon(path: Path) -> Iterator[None]:
    """As if another archiver process had the file: a recall of it waits."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_placeholder(tier: Released, name: str) -> None:
    subprocess.run(["cp", "--preserve=all", tier.root / "wide.jpg", tier.root / name], check=True)
    assert kind_of(tier.root / name) is Kind.PLACEHOLDER


def recalls_of(tier: Released, name: str) -> int:
    until(lambda: not os.listdir(tier.root / ".archiver/journal"))  # readers go before the catalog is told
    with open_site(tier.settings) as site:
        rows = site.catalog.audit_rows(tier_id=site.tier_ids["photos"], path=name)
        return sum(row.act is Act.RECALLED for row in rows)


def test_looking_at_a_released_file_recalls_nothing(tier: Released, mount: Mount) -> None:
    seen, real = mount.path / "2019/a.jpg", tier.root / "2019/a.jpg"
    before = real.stat()
    fd = os.open(seen, os.O_RDWR)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == before.st_size, "a hole that tools would skip"
    assert os.lseek(fd, 5000, os.SEEK_DATA) == 5000
    os.close(fd)
    os.listxattr(seen)
    assert (seen.stat().st_ino, seen.stat().st_size, seen.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )
    assert set(os.listdir(mount.path)) == set(os.listdir(tier.root)) - {".archiver"}, "our area is not for others"
    assert kind_of(real) is Kind.PLACEHOLDER


def test_reading_gives_the_generated_image_in_the_same_inode(tier: Released, mount: Mount) -> None:
    real = tier.root / "2019/b.JPG"
    before = real.stat()
    content = (mount.path / "2019/b.JPG").read_bytes()
    after = real.stat()
    assert kind_in(content) is Kind.GENERATED
    assert real.read_bytes() == content
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    decoded(real)


def test_mapping_gives_the_generated_image(tier: Released, mount: Mount) -> None:
    with (mount.path / "2019/d.png").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        last = memory[-4096:]  # the first page that is touched is not the first of the file
        assert kind_in(bytes(memory)) is Kind.GENERATED
    assert (tier.root / "2019/d.png").read_bytes().endswith(last)


def test_many_readers_of_a_file_cause_one_recall(tier: Released, mount: Mount) -> None:
    with ThreadPoolExecutor(40) as readers:
        with acted_upon(tier.root / "2019/e.webp"):
            contents = [readers.submit((mount.path / "2019/e.webp").read_bytes) for _ in range(40)]
            assert (mount.path / "resident.txt").read_text() == "as ever", "40 who wait keep others waiting"
        assert {kind_in(content.result(timeout=_SOON)) for content in contents} == {Kind.GENERATED}
    assert len({content.result() for content in contents}) == 1
    assert recalls_of(tier, "2019/e.webp") == 1


def test_a_reader_that_is_killed_is_gone_and_leaves_nothing_behind(tier: Released, mount: Mount) -> None:
    name = "2019/summer/c.jpeg"
    with acted_upon(tier.root / name):
        reader = subprocess.Popen(["cat", mount.path / name], stdout=subprocess.DEVNULL)
        blocked(reader.pid, mount.path / name)
        reader.kill()
        reader.wait(timeout=_SOON)
    assert kind_of(tier.root / name) is Kind.PLACEHOLDER
    assert recalls_of(tier, name) == 0
    assert kind_of(mount.path / name) is Kind.GENERATED


def test_what_is_written_into_a_released_file_lies_in_its_image(tier: Released, mount: Mount) -> None:
    seen, real = mount.path / "2019/summer/grey.jpg", tier.root / "2019/summer/grey.jpg"
    length = real.stat().st_size
    fd = os.open(seen, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"appended")
    os.close(fd)
    content = real.read_bytes()
    assert content.endswith(b"appended")
    assert kind_in(content[:length]) is Kind.GENERATED


def test_a_file_that_is_emptied_is_not_recalled_first(tier: Released, mount: Mount) -> None:
    (mount.path / "2019/f.tif").write_bytes(b"something else")
    assert (tier.root / "2019/f.tif").read_bytes() == b"something else"
    assert recalls_of(tier, "2019/f.tif") == 0


def test_rules_say_by_process_who_gets_the_image(tier: Released, mount: Mount, tmp_path: Path) -> None:
    for name in ("indexer", "nosy"):
        shutil.copy("/bin/cat", tmp_path / name)
    shown = subprocess.run([tmp_path / "indexer", mount.path / "wide.jpg"], capture_output=True, check=True)
    assert kind_in(shown.stdout) is Kind.PLACEHOLDER
    refused = subprocess.run([tmp_path / "nosy", mount.path / "wide.jpg"], capture_output=True, check=False)
    assert os.strerror(errno.EBUSY) in refused.stderr.decode()
    assert kind_of(tier.root / "wide.jpg") is Kind.PLACEHOLDER


def test_a_user_who_may_only_read_gets_the_image(tier: Released, mount: Mount) -> None:
    (tier.root / "2019/a.jpg").chmod(0o444)
    shown = subprocess.run(
        ["cat", mount.path / "2019/a.jpg"], capture_output=True, check=False, user=54321, group=54321
    )
    assert (kind_in(shown.stdout), shown.stderr) == (Kind.GENERATED, b"")


def test_our_area_is_not_there_and_cannot_be_made(mount: Mount) -> None:
    area = mount.path / ".archiver"
    for act in (
        area.stat,
        lambda: os.listdir(area),
        lambda: (area / "journal").stat(),
        lambda: os.rename(area, mount.path / "x"),
    ):
        with pytest.raises(FileNotFoundError):
            act()
    with pytest.raises(PermissionError):
        area.mkdir()
    (mount.path / "2019" / ".archiver").mkdir()  # only at the tier's root is it ours
    (mount.path / "2019" / ".archiver").rmdir()


def test_a_placeholder_that_was_copied_is_recalled_as_well(tier: Released, mount: Mount) -> None:
    copy_placeholder(tier, "copy.jpg")
    assert kind_of(mount.path / "copy.jpg") is Kind.GENERATED
    assert recalls_of(tier, "copy.jpg") == 1, "the catalog was not told"


def test_the_daemon_recalls_while_it_runs_and_the_mount_once_it_is_gone(tier: Released, mount: Mount) -> None:
    for name in ("daemon-1.jpg", "daemon-2.jpg"):
        copy_placeholder(tier, name)
    command = [sys.executable, "-m", "archiver", "--config", tier.config, "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            next(line for line in daemon.stderr if "started" in line)
            assert kind_of(mount.path / "daemon-1.jpg") is Kind.GENERATED
            assert any("daemon-1.jpg" in line and "recalled" in line for line in daemon.stderr), "it was not asked"
            with acted_upon(tier.root / "daemon-2.jpg"):
                reader = subprocess.Popen(["cat", mount.path / "daemon-2.jpg"], stdout=subprocess.PIPE)
                blocked(reader.pid, mount.path / "daemon-2.jpg")
                daemon.kill()
            content, _ = reader.communicate(timeout=_SOON)
            assert kind_in(content) is Kind.GENERATED
        finally:
            daemon.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_daemon_that_stops_or_reloads_leaves_the_recall_to_the_mount(
    tier: Released, mount: Mount, number: signal.Signals
) -> None:
    name = f"{number.name}.jpg"
    copy_placeholder(tier, name)
    command = [sys.executable, "-m", "archiver", "--config", tier.config, "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            next(line for line in daemon.stderr if "started" in line)
            with acted_upon(tier.root / name):
                reader = subprocess.Popen(["cat", mount.path / name], stdout=subprocess.PIPE)
                until(lambda: client.report(tier.settings.recall.desk_socket).readers == 1)
                daemon.send_signal(number)
                if number is signal.SIGTERM:
                    daemon.wait(_SOON)
                else:
                    next(line for line in daemon.stderr if "started" in line)  # the next desk
            content, _ = reader.communicate(timeout=_SOON)
            assert kind_in(content) is Kind.GENERATED
        finally:
            daemon.kill()
