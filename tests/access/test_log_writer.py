"""What archiver-recall logs is written out by a process of its own, whose end ends nothing else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.access.watching import Site, generated, until

pytestmark = pytest.mark.root


def test_a_hangup_does_not_end_the_process_that_writes_the_log(site: Site) -> None:
    service = site.start()
    desk = site.desk()
    os.kill(site.logger(), signal.SIGHUP)
    desk.kill()
    service.expect(f"process {desk.process.pid}, has gone")


def test_readers_are_served_when_nobody_writes_the_log_any_more(site: Site) -> None:
    (path,) = site.released()
    site.start()
    desk, responder, logger = site.desk(), site.responder(), site.logger()
    os.kill(logger, signal.SIGKILL)
    until(lambda: "State:\tZ" in Path(f"/proc/{logger}/status").read_text())
    desk.kill()  # which is a line in the log
    site.desk()
    assert site.read(path) == generated()
    assert site.responder() == responder
