"""Who a mount asks for images: the recalls of this process, one decode for all readers of a file."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from archiver.errors import ArchiverError
from archiver.lifecycle.outcome import Outcome
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site


class RecallsHere:
    """Recalls by this process, one file after the other."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._waiting: dict[tuple[int, int], list[Future[int]]] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recall")

    def ask(self, fd: int, _pid: int) -> Future[int]:
        """See archiver.access.fuse.Recalls."""
        found = os.fstat(fd)
        file = found.st_dev, found.st_ino
        answer: Future[int] = Future()
        with self._lock:
            if file in self._waiting:
                self._waiting[file].append(answer)
                os.close(fd)
                return answer
            self._waiting[file] = [answer]
        self._worker.submit(self._recall, fd, file)
        return answer

    def close(self) -> None:
        """Finish the recall in hand; what waits gets EIO."""
        self._worker.shutdown(cancel_futures=True)
        for answers in self._waiting.values():
            _give(answers, errno.EIO)

    def _recall(self, fd: int, file: tuple[int, int]) -> None:
        code = errno.EIO
        failed: list[Outcome] = []
        try:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            recall(self._site, [path], listener=lambda outcome: failed.append(outcome) if outcome.error else None)
            code = errno.EIO if failed else 0
        except (ArchiverError, OSError):
            code = errno.EIO
        finally:
            os.close(fd)
            with self._lock:
                answers = self._waiting.pop(file)
            _give(answers, code)


def _give(answers: list[Future[int]], code: int) -> None:
    for answer in answers:
        if answer.set_running_or_notify_cancel():
            answer.set_result(code)
