"""A mount that ends, however it ends, lets its readers go; one that cannot begin says why."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_fs import Disk

from archiver.formats import Kind
from tests.access.fuse_mount import Mount, blocked, mounted
from tests.access.released import Released, kind_of
from tests.access.test_fuse_recall import acted_upon
from tests.cli.installation import call

pytestmark = pytest.mark.root
_SOON = 20  # seconds within which what must not wait has happened, on a busy machine


def waiting_reader(mount: Mount, name: str) -> subprocess.Popen[bytes]:
    reader = subprocess.Popen(["cat", mount.path / name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    blocked(reader.pid, mount.path / name)
    return reader


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_reader_that_waits_when_the_server_ends_goes_on(tier: Released, tmp_path: Path, number: int) -> None:
    with mounted(tier.config, tier.root, tmp_path / "seen") as mount, acted_upon(tier.root / "wide.jpg"):
        reader = waiting_reader(mount, "wide.jpg")
        mount.server.send_signal(number)
        _, problem = reader.communicate(timeout=_SOON)
        mount.server.wait(timeout=_SOON)
        assert mount.server.returncode == (0 if number == signal.SIGTERM else -number)
        assert reader.returncode == 1, problem
    assert kind_of(tier.root / "wide.jpg") is Kind.PLACEHOLDER
    with mounted(tier.config, tier.root, tmp_path / "seen") as again:
        assert (again.path / "wide.jpg").stat().st_ino == (tier.root / "wide.jpg").stat().st_ino


def test_unmounting_ends_the_server(tier: Released, tmp_path: Path) -> None:
    with mounted(tier.config, tier.root, tmp_path / "seen") as mount:
        subprocess.run(["umount", mount.path], check=True)
        assert mount.server.wait(timeout=_SOON) == 0


def test_a_source_that_vanishes_is_an_error_and_no_hang(
    tier: Released, tmp_path: Path, make_disk: Callable[..., Disk]
) -> None:
    disk = make_disk()
    root = disk.path / "photos"
    root.mkdir()
    (root / "a").write_text("a")
    config = tmp_path / "other.toml"
    config.write_text(tier.config.read_text().replace(str(tier.root), str(root)))
    with mounted(config, root, tmp_path / "seen") as mount:
        assert (mount.path / "a").read_text() == "a"
        shutil.rmtree(root)
        for act in ((mount.path / "a").read_bytes, lambda: (mount.path / "b").write_bytes(b"")):
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == errno.ENOENT


def test_what_cannot_be_mounted_is_refused_with_the_reason(tier: Released, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tier.root / "2019" / "inside").mkdir()
    cases = [
        (tier.root, tier.root / "2019" / "inside", "within itself"),
        (tier.root, tmp_path / "missing", "No such file"),
        (tier.root, tmp_path / "file", "not a folder"),
        (tmp_path, tmp_path, "no configured tier"),
    ]
    for source, where, reason in cases:
        answer = call("--config", tier.config, "mount", source, where)
        assert (answer.code, reason in answer.err) == (2, True), answer.err


def test_a_mount_whose_server_was_killed_is_told_apart(tier: Released, tmp_path: Path) -> None:
    with mounted(tier.config, tier.root, tmp_path / "seen") as mount:
        mount.server.kill()
        mount.server.wait(timeout=_SOON)
        answer = call("--config", tier.config, "mount", tier.root, mount.path)
        assert (answer.code, "has died" in answer.err) == (2, True), answer.err


def test_the_background_is_entered_when_it_is_mounted(tier: Released, tmp_path: Path) -> None:
    where = tmp_path / "seen"
    where.mkdir()
    command = [sys.executable, "-m", "archiver", "--config", tier.config, "mount", "--background", tier.root, where]
    try:
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE)
        assert (where / "wide.jpg").stat().st_size
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("on_failure", ["placeholder", "error"])
def test_without_its_weights_a_released_file_is_a_placeholder_or_an_error(
    tier: Released, tmp_path: Path, on_failure: str
) -> None:
    (tmp_path / "vault").mkdir()
    config = tier.configured(f"{on_failure}.toml", f'on_failure = "{on_failure}"')
    vault = str(tier.settings.vault.path)
    config.write_text(config.read_text().replace(vault, f"{tmp_path}/vault").replace('"random-7"', '"embedded-1"'))
    with mounted(config, tier.root, tmp_path / "seen") as mount:
        if on_failure == "placeholder":
            assert kind_of(mount.path / "wide.jpg") is Kind.PLACEHOLDER
        else:
            with pytest.raises(OSError) as caught:
                (mount.path / "wide.jpg").read_bytes()
            assert caught.value.errno == errno.EIO
        with pytest.raises(OSError) as caught, (mount.path / "wide.jpg").open("r+b", buffering=0) as file:
            file.write(b"half")
        assert caught.value.errno == errno.EIO, "half a placeholder"
    assert kind_of(tier.root / "wide.jpg") is Kind.PLACEHOLDER
