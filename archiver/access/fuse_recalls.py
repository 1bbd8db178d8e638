"""Who a mount asks for images: the desk of the daemon while one runs, else one of its own, under the same rules."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from concurrent.futures import Future, wait

from archiver.desk import client
from archiver.desk.asker import Asker
from archiver.desk.desk import RecallDesk
from archiver.desk.jobs import Verdict
from archiver.errors import ArchiverError, DeskUnreachable
from archiver.lifecycle.site import Site

_LOG = logging.getLogger("archiver.access")


class Recalls:
    """Any thread may ask; `close` ends what was not asked of the daemon."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._socket = site.settings.recall.desk_socket
        self._starting = threading.Lock()
        self._desk: RecallDesk | None = None

    def ask(self, fd: int, pid: int) -> Question:
        """Ask for the image of a placeholder, open for reading and writing, that process `pid` reads. Closes `fd`."""
        return Question(self, fd, pid)

    def of_daemon(self, fd: int, pid: int) -> socket.socket | None:
        """The question asked of the daemon; None where none runs."""
        try:
            return client.ask_recall(self._socket, fd, pid)
        except DeskUnreachable:
            return None

    def verdict(self, peer: socket.socket) -> int:
        """Raises DeskUnreachable when the daemon ended."""
        return client.verdict(self._socket, peer)

    def of_own_desk(self, fd: int, pid: int) -> Future[int]:
        """The question asked in this process; cancelling the answer withdraws it. `fd` is closed."""
        answer = Future[int]()
        try:
            desk = self._started_desk()
        except ArchiverError as error:
            os.close(fd)
            _LOG.warning("a reader gets an error: %s. %s", error.message, error.hint)
            answer.set_result(errno.EIO)
            return answer

        def tell(verdict: Verdict) -> None:
            if answer.set_running_or_notify_cancel():
                answer.set_result(verdict.errno)

        reader = desk.ask(fd, Asker.of(pid), tell)
        answer.add_done_callback(lambda answer: desk.withdraw(reader) if answer.cancelled() else None)
        return answer

    def _started_desk(self) -> RecallDesk:
        """The desk of this process, kept once it runs: the next reader tries again. Raises CatalogUnavailable."""
        with self._starting:
            if self._desk is None:
                desk = RecallDesk(self._site)
                try:
                    desk.start()
                except BaseException:
                    desk.stop()
                    raise
                self._desk = desk
            return self._desk

    def close(self) -> None:
        """Answer all who wait; what is being written is finished."""
        if self._desk is not None:
            self._desk.stop()


class Question:
    """One reader's; used by one thread. A daemon that ends before it answers is replaced by the own desk."""

    def __init__(self, recalls: Recalls, fd: int, pid: int) -> None:
        self._recalls, self._pid = recalls, pid
        self._fd: int | None = fd  # kept as long as it may have to be asked elsewhere
        self._peer = recalls.of_daemon(fd, pid)
        self._own: Future[int] | None = None
        if self._peer is None:
            self._ask_own_desk()

    def answer(self, patience: float) -> int | None:
        """What the reader gets: 0 to go on, or an error number; None if it is not known within `patience` seconds."""
        if self._peer is not None:
            if not _readable(self._peer, patience):
                return None
            try:
                code = self._recalls.verdict(self._peer)
            except DeskUnreachable:
                self._peer.close()
                self._peer = None
                self._ask_own_desk()
                return None
            self.withdraw()
            return code
        assert self._own is not None
        return self._own.result() if wait([self._own], patience).done else None

    def withdraw(self) -> None:
        """Nobody waits for the answer any more."""
        if self._own is not None:
            self._own.cancel()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _ask_own_desk(self) -> None:
        assert self._fd is not None
        fd, self._fd = self._fd, None
        self._own = self._recalls.of_own_desk(fd, self._pid)


def _readable(peer: socket.socket, patience: float) -> bool:
    poll = select.poll()  # select itself knows no descriptor above 1023
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(patience * 1000))
