"""The descriptor that an image is written through, made of the reader's."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from fixtures_fs import run, unavailable

from archiver.access import reopen

pytestmark = pytest.mark.root


def test_a_file_of_a_filesystem_without_handles_is_opened_through_the_readers_mount(
    tmp_path: Path, private_mounts: None
) -> None:
    """Such as an overlay: its tiers are watched, and each of their readers would go without the image."""
    with ExitStack() as cleanup:
        run("mount", "-t", "tmpfs", "layers", tmp_path)
        cleanup.callback(run, "umount", tmp_path)
        lower, upper, work, over = (tmp_path / name for name in ("lower", "upper", "work", "over"))
        for folder in (lower, upper, work, over):
            folder.mkdir()
        try:
            run("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", over)
        except subprocess.CalledProcessError:
            unavailable("overlay filesystems")
        cleanup.callback(run, "umount", over)
        (over / "a.jpg").write_bytes(b"placeholder")
        root = os.open(over, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        cleanup.callback(os.close, root)
        reader = os.open(over / "a.jpg", os.O_RDONLY | os.O_CLOEXEC)
        cleanup.callback(os.close, reader)
        file = reopen.for_writing(reader, [root])
        cleanup.callback(os.close, file)
        os.pwrite(file, b"image", 0)
        assert os.pread(reader, 11, 0) == b"imageholder"
