"""Log lines through a pipe: whoever answers readers must not wait for the journal, which may be one of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from archiver.access.board import LIMIT

_SELDOM = 60.0  # seconds between two lines of the same kind
_NAMED = 8  # of a list


class PipeLog:
    """Lines that another process puts on standard error; one that does not fit at once is dropped and counted."""

    def __init__(self) -> None:
        self._source, self._sink = os.pipe()
        os.set_blocking(self._sink, False)
        self._dropped = 0
        self._last: dict[str, float] = {}

    def start(self) -> int:
        """Fork the process that writes them out; it ends with the last process that may write. Returns its id."""
        child = os.fork()
        if child:
            os.close(self._source)
            return child
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # The journal may wait for a reader's answer, and we for the journal: nothing else may depend on our end.
        os.closerange(3, self._source)
        os.closerange(self._source + 1, LIMIT)
        try:
            while data := os.read(self._source, 65536):
                os.write(sys.stderr.fileno(), data)
        finally:
            os._exit(0)

    def info(self, text: str) -> None:
        self._write(6, text)

    def warning(self, text: str) -> None:
        self._write(4, text)

    def seldom(self, text: str) -> None:
        """A warning that could come with every event, and is given once a minute."""
        now = time.monotonic()
        if now - self._last.get(text, -_SELDOM) >= _SELDOM:
            if len(self._last) > 100:
                self._last.clear()
            self._last[text] = now
            self._write(4, text)

    def error(self, text: str) -> None:
        self._write(3, text)

    def _write(self, level: int, text: str) -> None:
        # sd-daemon(3): the level in front of the line.
        line = f"<{level}>{text}\n".encode(errors="backslashreplace")[:4096]
        if self._dropped:
            line = f"<4>{self._dropped} lines were dropped\n".encode() + line
        try:
            os.write(self._sink, line)
            self._dropped = 0
        except OSError:  # it is full, or who writes them out has ended: no reason to end as well
            self._dropped += 1


def listed(names: Sequence[str]) -> str:
    """The first few of many, for a line of bounded length."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def describe(error: BaseException) -> str:
    """An exception with where it came from. Unlike a traceback it opens no source file."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' > '.join(places)})"
