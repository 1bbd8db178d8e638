"""Logging: to the journal with its fields where systemd started us, to stderr in plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys

from archiver.config import LogSettings

# Everything a record has by itself; what is left over was given with `extra` and becomes fields of the journal.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure(settings: LogSettings) -> None:
    """Set the level and the one handler of the package's loggers; calling it again replaces both."""
    logger = logging.getLogger("archiver")
    logger.setLevel(settings.level.upper())
    logger.handlers[:] = [_journal() if _wants_journal(settings) else _lines()]
    logger.propagate = False
    # Its own account of every job is noise beside ours, and so is its warning that a job still runs when its time has
    # come again: that is how a short interval is meant. What goes wrong in it is not.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _wants_journal(settings: LogSettings) -> bool:
    # systemd names the device and inode of the stream it connected; a shell started from a unit may have redirected it.
    stream = os.environ.get("JOURNAL_STREAM", "")
    if settings.journal == "auto" and stream:
        stat = os.fstat(sys.stderr.fileno())
        return stream == f"{stat.st_dev}:{stat.st_ino}"
    return settings.journal == "yes"


def _lines() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


class _OneLine(logging.Formatter):
    """Shows control characters as escapes: what a name says behind a line break would look like a line of ours."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        shown = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in record.message)
        record.message = "".join(shown)
        return super().formatMessage(record)


def _journal() -> logging.Handler:
    from cysystemd.journal import JournaldLogHandler

    handler: logging.Handler = JournaldLogHandler(identifier="archiver")  # type: ignore[no-untyped-call]
    handler.addFilter(_only_strings)
    return handler


def _only_strings(record: logging.LogRecord) -> bool:
    """File names that are not UTF-8 cannot go into the journal as they are."""
    record.msg = record.getMessage().encode("utf-8", "backslashreplace").decode("utf-8")
    record.args = ()
    for name in vars(record).keys() - _PLAIN:
        value = getattr(record, name)
        setattr(record, name, str(value).encode("utf-8", "backslashreplace").decode("utf-8"))
    return True
