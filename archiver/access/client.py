"""The end of the protocol that the daemon and the other archiver processes hold; see `archiver.access.protocol`.

    class Desk:                                      # in the daemon
        def asked(self, ask, fd, pidfd): ...         # close both (pidfd may be None); answer later, in any thread
        def withdrawn(self, id): ...
        def watched(self, name, how, errno): ...

    with RecallClient(path, desk) as client:         # connects, and again whenever archiver-recall comes back
        client.watch("photographs", root_fd)
        client.answer(ask.id)                        # or answer(ask.id, errno.EIO)

    with RecallClient(path) as client:               # a tool: only wants to be let through
        client.connected                             # False: nobody listens
        client.forget(fd)                            # before a re-release; raises RecallUnreachable

The desk's methods are called in the client's one thread, one at a time, and must not block: queue and return.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from archiver.access import protocol
from archiver.access.protocol import (
    Answer,
    Ask,
    Forget,
    Forgotten,
    Hello,
    How,
    Message,
    ProtocolError,
    Role,
    Watch,
    Watched,
    Welcome,
    Withdrawn,
)
from archiver.errors import RecallUnreachable

_LOG = logging.getLogger("archiver.access")
_RETRY = 0.5  # seconds between two attempts to connect
_PATIENCE = 10.0  # seconds for archiver-recall to answer; it never waits for a disk or a lock of ours


class Desk(Protocol):
    """Who decides about the readers of released files. Called from the client's thread; must not block."""

    def asked(self, ask: Ask, fd: int, pidfd: int | None) -> None:
        """Somebody waits. `fd` (O_RDWR) and `pidfd` are the desk's to close; `RecallClient.answer` when done."""

    def withdrawn(self, id: int) -> None:
        """That question is settled without an answer."""

    def watched(self, name: str, how: How, errno: int) -> None:
        """The filesystem of a tier is watched, or (How.NOTHING) is not, for this errno."""


class RecallClient:
    """A connection to `archiver-recall`, made again whenever it is lost; any thread may call any method."""

    def __init__(self, path: Path, desk: Desk | None = None) -> None:
        self.path = path
        self._desk = desk
        self._lock = threading.Lock()  # guards what follows
        self._peer: socket.socket | None = None
        self._roots: dict[int, tuple[str, int]] = {}  # by the id of their Watch: name and descriptor
        self._forgetting: dict[int, Future[int]] = {}
        self._ids = itertools.count(1)
        self._closing = threading.Event()
        self._tried = threading.Event()  # the first attempt to connect is over
        self._thread = threading.Thread(target=self._run, name="recall-client", daemon=True)

    def __enter__(self) -> RecallClient:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Connect, or find that nobody listens, and go on trying."""
        self._thread.start()
        self._tried.wait(_PATIENCE)

    def close(self) -> None:
        """Let go of the connection. Readers that still wait are answered as without a desk."""
        self._closing.set()
        with self._lock:
            if self._peer is not None:
                _hang_up(self._peer)
        self._thread.join()
        with self._lock:
            for _, descriptor in self._roots.values():
                os.close(descriptor)
            self._roots.clear()

    @property
    def connected(self) -> bool:
        """True while archiver-recall is there and lets this process through."""
        return self._peer is not None

    def watch(self, name: str, root: int) -> None:
        """Have the filesystem of a tier's root watched, now and after every reconnection. The descriptor is copied."""
        with self._lock:
            id = next(self._ids)
            self._roots[id] = (name, os.dup(root))
            if self._peer is not None:
                self._try_send(self._peer, Watch(id), [root])

    def answer(self, id: int, errno: int = 0) -> None:
        """Let the reader of that question go on, or fail; nothing happens if it does not wait any more."""
        with self._lock:
            if self._peer is not None:
                self._try_send(self._peer, Answer(id, errno))

    def forget(self, file: int) -> None:
        """Have the next reader of an open file raise a question again, for it is about to become a placeholder.

        Raises RecallUnreachable when archiver-recall is not there or does not answer, OSError when the kernel refuses.
        """
        done: Future[int] = Future()
        with self._lock:
            if self._peer is None:
                raise RecallUnreachable(path=self.path)
            id = next(self._ids)
            self._forgetting[id] = done
            self._try_send(self._peer, Forget(id), [file])
        try:
            code = done.result(_PATIENCE)
        except FutureTimeout:
            raise RecallUnreachable(path=self.path) from None
        finally:
            with self._lock:
                self._forgetting.pop(id, None)
        if code:
            raise OSError(code, f"forget: {os.strerror(code)}")

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._serve()
            except (OSError, ProtocolError) as error:
                # Absent is the usual case where archiver-recall is not installed; anything else is worth a line.
                if not isinstance(error, FileNotFoundError | ConnectionRefusedError):
                    _LOG.warning("archiver-recall at %s: %s", self.path, error)
            self._tried.set()
            self._closing.wait(_RETRY)

    def _serve(self) -> None:
        """One connection, from its beginning to its end."""
        with protocol.connection() as peer:
            peer.settimeout(_PATIENCE)
            peer.connect(str(self.path))
            protocol.send(peer, Hello(Role.DESK if self._desk else Role.TOOL))
            welcome = protocol.receive(peer)
            if welcome is None or not isinstance(welcome[0], Welcome):
                raise ProtocolError("it did not say Welcome")
            peer.settimeout(None)
            with self._lock:
                if self._closing.is_set():
                    return
                self._peer = peer
                for id, (_, descriptor) in self._roots.items():
                    protocol.send(peer, Watch(id), [descriptor])
            self._tried.set()
            try:
                while (received := protocol.receive(peer)) is not None:
                    self._handle(*received)
            finally:
                self._lost()

    def _lost(self) -> None:
        with self._lock:
            self._peer = None
            waiting = list(self._forgetting.values())
        for done in waiting:
            if not done.done():
                done.set_exception(RecallUnreachable(path=self.path))

    def _handle(self, message: Message, descriptors: Sequence[int]) -> None:
        match message, self._desk:
            case Ask(), desk if desk is not None:
                desk.asked(message, descriptors[0], descriptors[1] if len(descriptors) > 1 else None)
            case Withdrawn(id=id), desk if desk is not None:
                desk.withdrawn(id)
            case Watched(id=id, how=how, errno=code), desk if desk is not None:
                with self._lock:
                    name = self._roots[id][0] if id in self._roots else ""
                desk.watched(name, how, code)
            case Forgotten(id=id, errno=code), _:
                with self._lock:
                    done = self._forgetting.get(id)
                if done is not None:
                    done.set_result(code)
            case _:
                for descriptor in descriptors:
                    os.close(descriptor)
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def _try_send(self, peer: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send under the lock; a peer that is gone shows in the thread, which sends what matters again."""
        try:
            protocol.send(peer, message, descriptors)
        except OSError as error:
            _LOG.warning("archiver-recall at %s: %s", self.path, error)
            _hang_up(peer)


@contextmanager
def let_through(path: Path) -> Iterator[RecallClient | None]:
    """Where `archiver-recall` runs, this process's own reads must not be taken for somebody who wants the image."""
    if not os.access(path, os.W_OK):
        yield None  # it does not run, or this user may do nothing to the tiers either
        return
    with RecallClient(path) as client:
        yield client


def _hang_up(peer: socket.socket) -> None:
    """Have the thread that reads from it see the end."""
    with suppress(OSError):  # the other side was quicker
        peer.shutdown(socket.SHUT_RDWR)
