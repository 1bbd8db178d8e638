"""Where commands and mounts reach the desk of a running daemon: a Unix socket beside that of `archiver-recall`.

SOCK_SEQPACKET, one JSON object a packet, one request a connection, for root and the daemon's own user:

    {"want": "report"}                        -> a Report
    {"want": "events"}                        -> an Event whenever a reader gets its verdict, until one side hangs up
    {"want": "recall", "pid": N} + fd [+ pidfd] -> {"errno": N}; hanging up withdraws the question

One thread serves all; what it sends never blocks, and a follower that does not read is hung up on.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from archiver.desk.asker import Asker
from archiver.desk.client import MOST_BYTES, connect
from archiver.desk.desk import RecallDesk
from archiver.desk.history import Event
from archiver.desk.jobs import Reader, Verdict
from archiver.desk.report import Report
from archiver.errors import DeskUnreachable

_LOG = logging.getLogger("archiver.desk")
_MOST_REQUEST = 256  # bytes
_PAUSE = 1.0  # seconds without listening where nobody can be let in; a descriptor may be free then
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


class Door:
    """Serves the socket at `path` while it is open."""

    def __init__(self, path: Path, desk: RecallDesk, report: Callable[[], Report]) -> None:
        self._path, self._desk, self._report = path, desk, report
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._listen_again: float | None = None  # when, while it does not listen
        self._asked: dict[socket.socket, Reader] = {}
        self._followers: dict[socket.socket, Callable[[Event], None]] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="desk-door", daemon=True)

    def open(self) -> None:
        """Listen. Raises OSError where the folder cannot be used, or another daemon listens there (EADDRINUSE)."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(DeskUnreachable):
            connect(self._path).close()
            raise OSError(errno.EADDRINUSE, "another daemon listens there", str(self._path))
        with suppress(FileNotFoundError):
            self._path.unlink()  # of a daemon that died
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        listener.bind(os.fspath(self._path))
        self._path.chmod(0o600)
        listener.listen(socket.SOMAXCONN)
        listener.setblocking(False)
        self._listener = listener
        self._listen()
        self._selector.register(self._wake, selectors.EVENT_READ, lambda: None)
        self._thread.start()

    def close(self) -> None:
        """Hang up on everybody, and listen no more."""
        if self._listener is None:  # it was never open
            self._selector.close()
            os.close(self._wake)
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._closing:
            pause = None if self._listen_again is None else max(0.0, self._listen_again - time.monotonic())
            for key, _ in self._selector.select(pause):
                try:
                    key.data()
                except Exception:
                    _LOG.exception("the desk's socket")
            if self._listen_again is not None and (self._closing or time.monotonic() >= self._listen_again):
                self._listen()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                self._hang_up(key.fileobj)
        self._selector.close()
        os.close(self._wake)

    def _listen(self) -> None:
        assert self._listener is not None  # it was opened
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._listen_again = None

    def _accept(self) -> None:
        assert self._listener is not None  # it is what was registered
        try:
            peer, _ = self._listener.accept()
        except BlockingIOError:  # who came has gone
            return
        except OSError as error:
            # Who cannot be let in stays at the door, which would be all that this thread saw.
            _LOG.warning("nobody is let in at %s for %.0f s: %s", self._path, _PAUSE, error.strerror)
            self._selector.unregister(self._listener)
            self._listen_again = time.monotonic() + _PAUSE
            return
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.geteuid()):
            peer.close()
            return
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MOST_BYTES)
        self._selector.register(peer, selectors.EVENT_READ, partial(self._request, peer))

    def _request(self, peer: socket.socket) -> None:
        try:
            packet, descriptors, flags, _ = socket.recv_fds(peer, _MOST_REQUEST, 2, socket.MSG_DONTWAIT)
        except OSError:
            self._hang_up(peer)
            return
        try:
            wanted = json.loads(packet) if packet and not flags & socket.MSG_TRUNC else {}
            taken = self._grant(peer, wanted, descriptors)
        except (ValueError, TypeError, KeyError, AttributeError):
            taken = False
        if not taken:
            for descriptor in descriptors:
                os.close(descriptor)
            self._hang_up(peer)

    def _grant(self, peer: socket.socket, wanted: dict[str, object], descriptors: list[int]) -> bool:
        """Do what is asked; False for an end of file and for what is none of ours. Descriptors are the desk's then."""
        if peer in self._asked or peer in self._followers:
            return False
        match wanted.get("want"), wanted.get("pid"), descriptors:
            case "report", None, []:
                return _send(peer, asdict(self._report()))
            case "events", None, []:
                follower = partial(_tell, peer)
                self._followers[peer] = follower
                self._desk.history.follow(follower)
                return True
            case "recall", int(pid), [fd, *pidfds]:
                answer = partial(_answer, peer)
                pidfd = pidfds[0] if pidfds else None
                self._asked[peer] = self._desk.ask(fd, Asker.of(pid), answer, pidfd=pidfd)
                return True
        return False

    def _hang_up(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        # First of all, or a mount took the verdict of the withdrawn question for the image: where the daemon has gone
        # it recalls by itself.
        with suppress(OSError):  # the other side was quicker
            peer.shutdown(socket.SHUT_RDWR)
        if (reader := self._asked.pop(peer, None)) is not None:
            self._desk.withdraw(reader)
        if (follower := self._followers.pop(peer, None)) is not None:
            self._desk.history.leave(follower)
        peer.close()


def _answer(peer: socket.socket, verdict: Verdict) -> None:
    _send(peer, {"errno": verdict.errno})


def _tell(peer: socket.socket, event: Event) -> None:
    if not _send(peer, asdict(event)):
        with suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)  # the thread of the door sees it, and lets go of it


def _send(peer: socket.socket, value: dict[str, object]) -> bool:
    try:
        peer.send(json.dumps(value).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True
