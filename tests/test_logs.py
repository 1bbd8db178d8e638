"""Promises of the log where it is plain lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from archiver import logs
from archiver.config import LogSettings


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("archiver")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logging.getLogger("archiver.tests")
    logger.handlers[:], logger.level, logger.propagate = before


def test_a_name_with_a_line_break_makes_no_line_of_its_own(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(LogSettings(journal="no"))
    log.info("released %s", "s3://photos/a\n2026-01-01 INFO archiver: all is well\x1b[2J\udcff ü.jpg")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("released s3://photos/a\\n2026-01-01 INFO archiver: all is well\\x1b[2J\\udcff ü.jpg")


def test_a_stack_trace_keeps_its_lines(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(journal="no"))
    try:
        raise ValueError("no\nnumber")
    except ValueError:
        log.exception("failed")
    assert "Traceback" in capsys.readouterr().err.splitlines()[1]
