"""The desk that a mount has of its own, where no daemon runs."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from archiver import formats
from archiver.access.fuse_recalls import Recalls
from archiver.lifecycle.site import Site
from tests.desk.conftest import PATIENCE, with_recall
from tests.desk.test_desk import kind_of


def answer_to(recalls: Recalls, path: Path) -> int | None:
    return recalls.ask(os.open(path, os.O_RDWR | os.O_CLOEXEC), os.getpid()).answer(PATIENCE)


def test_a_catalog_that_cannot_be_read_is_an_error_and_the_next_reader_gets_the_image(
    site: Site, released: list[Path], tmp_path: Path
) -> None:
    site.settings = with_recall(site.settings, socket=tmp_path / "recall.sock")
    database = site.settings.catalog_url.removeprefix("sqlite:///")
    with closing(Recalls(site)) as recalls, closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("ALTER TABLE audit RENAME TO away")
        open_descriptors = len(os.listdir("/proc/self/fd"))
        assert answer_to(recalls, released[0]) == errno.EIO
        assert len(os.listdir("/proc/self/fd")) <= open_descriptors
        other.execute("ALTER TABLE away RENAME TO audit")
        assert answer_to(recalls, released[0]) == 0
    assert kind_of(released[0]) is formats.Kind.GENERATED
