"""`archiver-recall`: holds the groups of watches, and keeps one responder alive that answers for them.

The responder is forked and never executed anew: while readers of the system's own filesystem wait, no program can be
started from it. Everything is imported and locked into memory before anything is watched.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from archiver import config
from archiver.access import fanotify, systemd
from archiver.access.board import LIMIT, Board, Who
from archiver.access.pipelog import PipeLog, describe, listed
from archiver.access.protocol import How, connection
from archiver.access.responder import Responder
from archiver.access.switchboard import Switchboard
from archiver.access.terms import Groups, Terms, system_devices
from archiver.config import Settings
from archiver.errors import AnotherRecall, ArchiverError, WatchingRefused

_DEATHS, _WITHIN = 10, 60.0  # so many responders dead in so many seconds: something is wrong here
_TICK = 1.0  # seconds
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_PR_SET_PDEATHSIG = 1
# What the service manager, the journal and a new archiver-recall need to start. A filesystem with one of these on it is
# never left watched without a process that answers.
_SYSTEM = ("/", "/bin", "/etc", "/lib", "/opt", "/run", "/tmp", "/usr", "/usr/local", "/var", "/var/log", "/var/lib")

_libc = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    """See the module."""

    def __init__(
        self,
        listener: socket.socket,
        users: frozenset[int],
        terms: Terms,
        groups: Groups,
        board: Board,
        log: PipeLog,
    ) -> None:
        self._listener, self._users, self._terms = listener, users, terms
        self._groups, self._board, self._log = groups, board, log
        self._spared: list[Who] = []  # whom we have given a placeholder, and who may not have read it whole
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._leaving = False
        self._signalled, self._signal = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)

    def _leave(self, _number: int, _frame: FrameType | None) -> None:
        self._leaving = True

    def run(self) -> int:
        """Keep a responder alive until told to stop. Returns the exit code."""
        if answered := self._answer_for_the_dead():  # of an earlier supervisor's, whose group systemd has kept
            self._log.error(f"the process before this one died; {answered}")
        systemd.notify("READY=1")
        while True:
            status = self._one_responder()
            answered = self._answer_for_the_dead()
            if self._leaving:
                self._log.info("stopped")
                return 0
            self._log.error(f"the responder died ({_reason(status)}); {answered or 'nobody waited'}")
            self._deaths.append(time.monotonic())
            if len(self._deaths) == _DEATHS and self._deaths[-1] - self._deaths[0] < _WITHIN:
                self._log.error("it keeps dying: giving up")
                return 1

    def _one_responder(self) -> int:
        """Start one and wait for its end, which comes by itself or because it hangs. Returns its wait status."""
        control, ours = os.pipe2(os.O_CLOEXEC)
        self._board.beat()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(ours)
            self._respond(control, parent)
        os.close(control)
        process = os.pidfd_open(child)
        try:
            self._guard(process, ours)
            return os.waitpid(child, 0)[1]
        finally:
            os.close(process)
            with suppress(OSError):
                os.close(ours)

    def _guard(self, process: int, control: int) -> None:
        """Until the responder has ended."""
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(self._signalled, select.POLLIN)
        told = False
        while True:
            ready = dict(poll.poll(_TICK * 1000))
            if process in ready:
                return
            with suppress(BlockingIOError):
                os.read(self._signalled, 64)
            if self._leaving and not told:
                systemd.notify("STOPPING=1")
                os.close(control)
                told = True
            if self._board.silence() < self._terms.hung:
                systemd.notify("WATCHDOG=1")
            else:
                self._log.error(f"the responder hangs since {self._board.silence():.0f} s")
                signal.pidfd_send_signal(process, signal.SIGKILL)

    def _answer_for_the_dead(self) -> str:
        """Answer every reader whose event was read and never answered: only the event's number is needed for that.

        Returns whom, in words, for nobody else can tell that they got no image; "" for nobody.
        """
        answered = 0
        self._spared = []
        for number, who in self._board.unanswered():
            denial = self._terms.denial(who.pid) if who else 0
            for group in (self._groups.kept, self._groups.own):
                answered += fanotify.respond(group, number, denial)
            if who:
                self._board.goes_on(number)
                self._spared.append(who)
        if not answered and not self._spared:
            return ""
        whom = listed([f"process {who.pid} (inode {who.inode})" for who in self._spared])
        return f"{answered} readers were answered for it{', without an image: ' if whom else ''}{whom}"

    def _respond(self, control: int, parent: int) -> None:
        """The life of a responder."""
        code = 1
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                return
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # the supervisor says when
            lock_memory(self._log)
            selector = selectors.DefaultSelector()
            clients = Switchboard(self._listener, selector, self._users, self._log)
            responder = Responder(
                self._groups, selector, clients, control, self._board, self._spared, self._terms, self._log
            )
            sys.addaudithook(_open_no_path)
            responder.run()
            code = 0
        except BaseException as error:
            self._log.error(f"the responder fails: {describe(error)}")
        finally:
            os._exit(code)


def _open_no_path(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a program that would wait for its own answer dies instead, and is replaced."""
    if event == "open" and not str(arguments[0]).startswith("/proc/"):
        raise RuntimeError(f"the responder must not open {arguments[0]!r}")


def _reason(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def lock_memory(log: PipeLog) -> None:
    """No page of this process is ever waited for."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        log.warning(f"memory is not locked: {os.strerror(ctypes.get_errno())}. Under pressure readers may wait long.")


def take_groups(kept: int | None, system: frozenset[int]) -> Groups:
    """The group that systemd has kept, or a new one; and one of our own. Raises WatchingRefused."""
    try:
        if kept is None:
            kept = fanotify.open_group()
            systemd.store("group", kept)
        return Groups(kept, fanotify.open_group(), system)
    except OSError as error:
        raise WatchingRefused(reason=error.strerror) from error


def listen(path: Path) -> socket.socket:
    """The socket that the other archiver processes connect to. Raises AnotherRecall."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with connection() as probe, suppress(FileNotFoundError, ConnectionRefusedError):
        probe.connect(str(path))
        raise AnotherRecall(path=path)
    path.unlink(missing_ok=True)
    listener = connection()
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def terms_of(settings: Settings) -> Terms:
    """What the configuration says about readers."""
    recall = settings.recall
    hows = (How.OPEN,) if recall.events == "open" else (How.READ, How.OPEN)
    refuse = recall.on_failure == "error" and recall.mode == "transparent"  # where nobody recalls, nothing has failed
    return Terms(deadline=recall.deadline.total_seconds(), refuse=refuse, hows=hows)


def serve(path: Path, terms: Terms, needed: Iterable[str | Path]) -> int:
    """Listen at `path` and answer readers until stopped. Returns the exit code. Raises WatchingRefused, AnotherRecall.

    needed: files and folders that a new process of ours would open at its start, beside Python's own.
    """
    handed = systemd.stored()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(LIMIT, most), most))
    listener = listen(path)
    # The owner of the folder is the daemon's user, whoever we are.
    users = frozenset((0, os.geteuid(), path.parent.stat().st_uid))
    if "board" in handed:
        board = Board(handed["board"])
    else:
        board = Board.create()
        systemd.store("board", board.fd)
    system = system_devices([*_SYSTEM, *sys.path, sys.prefix, sys.base_prefix, sys.executable, *needed])
    groups = take_groups(handed.get("group"), system)
    log = PipeLog()
    log.start()
    lock_memory(log)
    log.info(f"started{', with the watches of before' if 'group' in handed else ''}")
    return Supervisor(listener, users, terms, groups, board, log).run()


def main(arguments: list[str] | None = None) -> None:
    """The console script."""
    parser = argparse.ArgumentParser("archiver-recall", description="Let readers of released files wait for a recall.")
    parser.add_argument("--config", type=Path, help="configuration (else $ARCHIVER_CONFIG, else the usual places)")
    options = parser.parse_args(arguments)
    try:
        file = config.config_path(options.config)
        settings = config.load(file)
        sys.exit(serve(settings.recall.socket, terms_of(settings), [file]))
    except ArchiverError as error:
        sys.stderr.write(f"archiver-recall: {error.message}\n{error.hint}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
