"""Looking at what stands where a released file was, while reads of its filesystem are watched."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tests.formats.image_samples as made
from archiver.formats import build_placeholder
from tests.access.watching import REPOSITORY, Site, generated

pytestmark = pytest.mark.root

GOLDEN = REPOSITORY / "tests/codec/golden/sgc-v1.rec"


def test_a_record_is_shown_without_a_recall(site: Site) -> None:
    image = made.samples()["jpeg"]
    envelope = made.envelope_for(image, GOLDEN.read_bytes())
    head = build_placeholder(envelope, made.inspected(image).metadata, made.PREVIEW)
    path = site.disk / "rome.jpg"
    path.write_bytes(head.ljust(len(image), b"\0"))
    config = site.socket.with_name("archiver.toml")
    config.write_text(f'[recall]\nsocket = "{site.socket}"\n[[tier]]\nname = "disk"\npath = "{site.disk}"\n')
    site.start()
    desk = site.desk()
    command = [sys.executable, "-m", "archiver", "--config", config, "record", "show", path]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "the placeholder itself" in shown.stdout
    assert desk.silent()
    assert site.read(path) == generated()
