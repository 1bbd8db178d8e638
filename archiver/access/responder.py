"""The process that answers the kernel: every reader of a watched filesystem waits for it once.

    event -> the file's first block -> resident: go on, and never ask again | a placeholder: ask the desk, then go on

One thread that never waits for a disk, a lock or another process: what might is done by a few helpers, whose results
come back to it. It opens no path (a hook of the interpreter sees to that): on a watched filesystem it would wait for
itself. What its successor needs to know is on the board.
"""

from __future__ import annotations

import errno
import os
import queue
import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from archiver.access import fanotify, heads, reopen
from archiver.access.board import Board, Who
from archiver.access.fanotify import Event
from archiver.access.heads import Finding
from archiver.access.pipelog import PipeLog, describe, listed
from archiver.access.protocol import Ask, How, Withdrawn
from archiver.access.readers import Reader, Readers, Spared
from archiver.access.switchboard import Switchboard
from archiver.access.terms import Groups, Terms, suited

_TICK = 1.0  # seconds between two heartbeats at most
_LEASE_RETRY = 0.1  # seconds until a file is tried again that somebody holds a lease on; nobody tells when it is over
_TIERS = 1.0  # seconds from a new desk to the last of its tiers' roots
_HELPERS = 4
_T = TypeVar("_T")


class Overflowed(RuntimeError):
    """The kernel has let readers go on without asking. The queue has no limit, so this cannot be."""


class Responder:
    """See the module. `run` returns when the supervisor has asked for the end and nobody waits."""

    def __init__(
        self,
        groups: Groups,
        selector: selectors.BaseSelector,
        clients: Switchboard,
        control: int,
        board: Board,
        spared: Iterable[Who],
        terms: Terms,
        log: PipeLog,
    ) -> None:
        self._groups, self._selector, self._clients, self._control = groups, selector, clients, control
        self._board, self._terms, self._log = board, terms, log
        self._looking = Readers()  # at whose file a helper looks
        self._waiting = Readers()  # for a recall
        self._unasked: deque[Reader] = deque()
        self._leased: list[Reader] = []  # not asked either: the lease on their file is being broken
        self._leased_until = 0.0
        self._spared = Spared()
        for who in spared:
            self._spared.add(who)
        self._desk_left = time.monotonic()
        self._desk_came = -_TIERS
        self._leave_by: float | None = None
        # Each has an event's descriptor and a pidfd, and half of them is left for everything else.
        self._most_waiting = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._helpers = ThreadPoolExecutor(_HELPERS, "helper")
        self._results: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._wake, woken = socket.socketpair(type=socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        clients.handler = self
        for group in (groups.kept, groups.own):
            self._selector.register(group, selectors.EVENT_READ, partial(self._events, group))
        self._selector.register(woken, selectors.EVENT_READ, partial(self._finish, woken))
        self._selector.register(control, selectors.EVENT_READ, self._prepare_to_leave)

    def run(self) -> None:
        """Answer until told to leave. Raises Overflowed, EventsMalformed."""
        while self._leave_by is None or (len(self._waiting) and time.monotonic() < self._leave_by):
            self._board.beat()
            self._clients.tick()
            for key, mask in self._selector.select(self._pause()):
                key.data(mask)
            self._ask_desk()
            self._give_up()
        self._tell_of(self._waiting, "the service is stopping")
        for reader in [*self._waiting, *self._looking]:
            self._late(reader)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _pause(self) -> float:
        return min(_LEASE_RETRY if self._leased else _TICK, self._waiting.pause(), self._looking.pause())

    def _prepare_to_leave(self, _mask: int) -> None:
        """Those who wait are still served, for a while; what nobody will answer for is watched no longer."""
        self._selector.unregister(self._control)
        self._leave_by = time.monotonic() + self._terms.farewell
        fanotify.unwatch_all(self._groups.own)

    def _give_up(self) -> None:
        """Every reader has a deadline, and none waits long for a desk that is not there."""
        late = [*self._looking.late(), *self._waiting.late()]
        if not self._clients.has_desk and time.monotonic() > self._desk_left + self._terms.reconnect:
            late += self._waiting
            # Nobody waits any more. While no desk comes to be asked they would be kept, in memory that is locked.
            self._unasked.clear()
            self._leased.clear()
        self._tell_of([reader for reader in late if not (reader.looked_at or reader.asked)], "no desk has answered")
        for reader in late:
            self._late(reader)

    def _tell_of(self, readers: Iterable[Reader], why: str) -> None:
        """Log who gets no image; nobody else can tell."""
        if names := [f"process {reader.event.pid} ({_path(reader.event)})" for reader in readers]:
            self._log.warning(f"{why}; without an image: {listed(names)}")

    def _late(self, reader: Reader) -> None:
        if reader.looked_at:
            self._looking.take(reader.id)
            # Whoever only waits for a look at a file on a slow disk goes on, to wait for that disk itself. Its
            # descriptor stays open until the helper is done: the number must not be given to another event.
            fanotify.respond(reader.group, reader.event.fd)
            return
        self._waiting.take(reader.id)
        if reader.asked:
            self._clients.tell_desk(Withdrawn(reader.id))
        self._settle(reader, self._terms.denial(reader.event.pid))

    # -- the kernel's events -------------------------------------------------------------------------------------------

    def _events(self, group: int, _mask: int) -> None:
        for event in fanotify.read_events(group):
            if event.overflow:
                raise Overflowed
            if event.fd < 0:  # the kernel has refused it already
                self._log.seldom(f"a reader was refused, its file could not be opened: {os.strerror(-event.fd)}")
                _close(event)
                continue
            self._board.seen(event.fd)
            self._event(group, event)

    def _event(self, group: int, event: Event) -> None:
        if event.pid == os.getpid():  # a helper, opening a file for the desk
            self._respond(group, event)
            return
        try:
            finding = heads.look(event.fd, wait=False)
        except BlockingIOError:
            reader = self._looking.add(group, event, self._terms.deadline, looked_at=True)
            self._help(partial(heads.look, event.fd, wait=True), partial(self._looked, reader))
            return
        except Exception as error:  # a defect, or a bad disk, which the reader will meet itself: nobody waits for that
            self._log.seldom(f"a reader goes on unseen: {describe(error)}")
            finding = Finding.UNSETTLED
        self._found(group, event, finding)

    def _looked(self, reader: Reader, found: Finding | OSError) -> None:
        if self._looking.take(reader.id) is None:  # answered meanwhile
            _close(reader.event)
        elif isinstance(found, OSError):  # it will meet the error itself
            self._log.seldom(f"a reader goes on unseen: {describe(found)}")
            self._respond(reader.group, reader.event)
        else:
            self._found(reader.group, reader.event, found)

    def _found(self, group: int, event: Event, finding: Finding) -> None:
        if finding is Finding.PLACEHOLDER and not self._passes(event):
            reader = self._waiting.add(group, event, self._terms.deadline)
            self._board.waits(event.fd, _who(event))
            if len(self._waiting) > self._most_waiting:
                self._log.seldom(f"{len(self._waiting)} readers wait: too many")
                self._late(reader)
            else:
                self._unasked.append(reader)
            return
        if finding is Finding.RESIDENT:
            self._ignore(group, event)
        self._respond(group, event)

    def _passes(self, event: Event) -> bool:
        """Archiver itself, and who has just been given this placeholder as it is."""
        return self._clients.lets_through(event.pid) or self._spared.goes_on(_who(event))

    def _ignore(self, group: int, event: Event) -> None:
        try:
            fanotify.ignore(group, event.fd, event.how)
        except OSError as error:  # it only costs time: the next read asks again
            self._log.seldom(f"a resident file goes on raising events: {error}")

    def _respond(self, group: int, event: Event, denial: int = 0) -> None:
        # Closed first: whoever goes on may want a lease, which fails while anybody has the file open.
        _close(event)
        fanotify.respond(group, event.fd, denial)

    def _settle(self, reader: Reader, denial: int = 0) -> None:
        """Answer one who waited for a recall, and is in no table any more."""
        self._board.goes_on(reader.event.fd)
        if not denial:
            self._remember(reader)
        self._respond(reader.group, reader.event, denial)

    def _remember(self, reader: Reader) -> None:
        """Whatever stands in the file now: no more questions about it, for everybody or for this process."""
        try:
            finding = heads.look(reader.event.fd, wait=False)
        except OSError:  # not in memory: the next read will tell
            return
        if finding is Finding.RESIDENT:
            self._ignore(reader.group, reader.event)
        else:
            self._spared.add(_who(reader.event))

    # -- asking the desk -----------------------------------------------------------------------------------------------

    def _ask_desk(self) -> None:
        if self._leased and time.monotonic() >= self._leased_until:
            self._unasked += self._leased
            self._leased = []
        while self._unasked and self._clients.has_desk:
            reader = self._unasked.popleft()
            if reader not in self._waiting:
                continue
            if reader.how is How.OPEN:
                # Opening it raises an event, which this thread has to answer. The helper's own copy stays what it is.
                copy, roots = os.dup(reader.event.fd), list(self._clients.roots())
                self._help(partial(_open_copy, copy, roots), partial(self._opened, reader))
                continue
            try:
                file: int | OSError = reopen.for_writing(reader.event.fd, self._clients.roots())
            except OSError as error:
                file = error
            if not self._opened(reader, file):
                return

    def _opened(self, reader: Reader, file: int | OSError) -> bool:
        """Send the question; False when the desk has to read others first."""
        if reader not in self._waiting:  # it was answered while a helper opened its file
            if not isinstance(file, OSError):
                os.close(file)
            return True
        if isinstance(file, BlockingIOError) or self._comes_too_early(file):
            # Somebody, perhaps the reader, holds a lease: it is asked to give it back, as for any program that opens
            # the file for writing, and after /proc/sys/fs/lease-break-time it is taken.
            if not self._leased:
                self._leased_until = time.monotonic() + _LEASE_RETRY
            self._leased.append(reader)
            return True
        if isinstance(file, OSError):
            self._log.seldom(
                f"process {reader.event.pid} has a placeholder: {_path(reader.event)} cannot be written to: {file}."
                " Was its tier read-only when the daemon started, or is it missing in ReadWritePaths=?"
            )
            self._waiting.take(reader.id)
            self._settle(reader, self._terms.denial(reader.event.pid))
            return True
        event = reader.event
        ask = Ask(reader.id, event.pid, reader.how, reader.left_ms)
        try:
            reader.asked = self._clients.tell_desk(ask, [file, event.pidfd] if event.pidfd >= 0 else [file])
        finally:
            os.close(file)
        if not reader.asked:
            self._unasked.appendleft(reader)
        return reader.asked

    def _comes_too_early(self, file: int | OSError) -> bool:
        """The reader's own mount is read-only, and the root of its tier may be on its way with those of the others."""
        early = time.monotonic() < self._desk_came + _TIERS
        return early and isinstance(file, OSError) and file.errno == errno.EROFS

    # -- what clients want (switchboard.Handler) -----------------------------------------------------------------------

    def let_through(self, pid: int) -> None:
        """A process of archiver's must not wait for the desk, least of all the desk itself."""
        for reader in self._waiting:
            if reader.event.pid == pid and self._waiting.take(reader.id):
                self._board.goes_on(reader.event.fd)
                self._respond(reader.group, reader.event)

    def desk_came(self) -> None:
        self._desk_came = time.monotonic()
        self._unasked = deque(self._waiting)
        self._leased = []

    def desk_left(self) -> None:
        self._desk_left = time.monotonic()
        for reader in self._waiting:
            reader.asked = False

    def answered(self, id: int, errno: int) -> None:
        if reader := self._waiting.take(id):
            self._settle(reader, suited(errno, reader.event.pid))

    def watch(self, directory: int) -> tuple[How, int]:
        code = 0
        for how in self._terms.hows:
            try:
                fanotify.watch(self._groups.of(directory), directory, how)
                return how, 0
            except OSError as error:
                code = error.errno or 0
        return How.NOTHING, code

    def forget(self, file: int) -> int:
        facts = os.fstat(file)
        self._spared.forget(facts.st_dev, facts.st_ino)
        try:
            for group in (self._groups.kept, self._groups.own):
                fanotify.forget(group, file)
        except OSError as error:
            return error.errno or 0
        return 0

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _help(self, work: Callable[[], _T], then: Callable[[_T | OSError], object]) -> None:
        """Have a helper do what may wait for a disk; `then` gets the result, in the main thread."""

        def do() -> None:
            try:
                result: _T | OSError = work()
            except OSError as error:
                result = error
            except Exception as error:  # a defect: who waits for it waits no longer than for a bad disk
                result = OSError(errno.EIO, describe(error))
            self._results.put(partial(then, result))
            with suppress(BlockingIOError):  # it has been woken often enough
                self._wake.send(b".")

        self._helpers.submit(do)

    def _finish(self, woken: socket.socket, _mask: int) -> None:
        with suppress(BlockingIOError):
            while True:
                woken.recv(1)
        with suppress(queue.Empty):
            while True:
                self._results.get_nowait()()


def _open_copy(copy: int, roots: list[int]) -> int:
    try:
        return reopen.for_writing(copy, roots)
    finally:
        os.close(copy)


def _path(event: Event) -> str:
    try:
        return str(Path(f"/proc/self/fd/{event.fd}").readlink())
    except OSError:
        return "it"


def _close(event: Event) -> None:
    for descriptor in (event.fd, event.pidfd):
        if descriptor >= 0:
            os.close(descriptor)


def _who(event: Event) -> Who:
    facts = os.fstat(event.fd)
    return Who(event.pid, facts.st_dev, facts.st_ino)
