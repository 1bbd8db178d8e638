"""What the responder keeps of its readers, event by event; tests/access/test_recall_service.py has it as a process."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fixtures_fs import need_root, unavailable

from archiver.access import fanotify, heads, protocol
from archiver.access.board import Board
from archiver.access.fanotify import PRE_ACCESS, Event
from archiver.access.heads import Finding
from archiver.access.pipelog import PipeLog
from archiver.access.protocol import Watched, Welcome
from archiver.access.responder import Responder
from archiver.access.terms import Groups, Terms
from tests.access.test_switchboard import Exchange
from tests.access.watching import put_placeholder

pytestmark = pytest.mark.root


class Station:
    """A responder whose events are made up: nothing is watched."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.exchange = Exchange(folder / "recall.sock", cleanup)
        self.group, own = fanotify.open_group(), fanotify.open_group()
        control = os.eventfd(0, os.EFD_CLOEXEC)
        for descriptor in (self.group, own, control):
            cleanup.callback(os.close, descriptor)
        self._processes = itertools.count(10_000_000)  # more than the kernel ever gives
        self.placeholder = put_placeholder(folder / "placeholder.jpg")
        self.responder = Responder(
            Groups(self.group, own, frozenset()),
            self.exchange.selector,
            self.exchange.board,
            control,
            Board.create(),
            [],
            Terms(deadline=60.0, reconnect=0.0),
            PipeLog(),
        )

    def desk(self) -> socket.socket:
        """One whose tier is not really watched: nobody here answers, and this very process would wait."""
        self.exchange.board.handler = self.exchange.handler
        try:
            return self.exchange.desk()
        finally:
            self.exchange.board.handler = self.responder

    def reader(self) -> None:
        """Another process reads the placeholder."""
        file = os.open(self.placeholder, os.O_RDONLY | os.O_CLOEXEC)
        event = Event(file, next(self._processes), PRE_ACCESS)
        self.responder._found(self.group, event, Finding.PLACEHOLDER)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    need_root()
    try:
        os.close(fanotify.open_group())
    except OSError as error:
        unavailable(f"fanotify: {error.strerror}")
    with ExitStack() as cleanup:
        yield Station(tmp_path, cleanup)


def test_nothing_is_kept_of_readers_that_are_given_up_without_a_desk(station: Station) -> None:
    responder = station.responder
    for _ in range(10):
        station.reader()
        responder._ask_desk()
        responder._give_up()
    assert (len(responder._waiting), len(responder._unasked)) == (0, 0)


def test_a_defect_in_a_look_at_a_file_keeps_no_reader_waiting(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_file: int, *, wait: bool) -> Finding:
        raise ValueError("no such thing") if wait else BlockingIOError

    monkeypatch.setattr(heads, "look", look)
    file = os.open(station.placeholder, os.O_RDONLY | os.O_CLOEXEC)
    station.responder._event(station.group, Event(file, 10_000_000, PRE_ACCESS))
    assert len(station.responder._looking) == 1
    for key, mask in station.exchange.selector.select(10):
        key.data(mask)
    assert len(station.responder._looking) == 0
    assert not Path(f"/proc/self/fd/{file}").exists(), "it is nobody's, and open"


def test_nothing_is_kept_of_readers_that_are_too_many(station: Station) -> None:
    station.responder._most_waiting = 0
    station.reader()
    assert (len(station.responder._waiting), len(station.responder._unasked)) == (0, 0)


def test_the_desk_is_not_asked_about_who_was_answered_while_a_helper_opened_the_file(station: Station) -> None:
    desk = station.desk()
    station.reader()
    (reader,) = station.responder._waiting
    station.responder.answered(reader.id, 0)
    file = os.open(station.placeholder, os.O_RDWR | os.O_CLOEXEC)
    assert station.responder._opened(reader, file)
    assert not Path(f"/proc/self/fd/{file}").exists(), "it is nobody's, and open"
    desk.setblocking(False)
    for told in (Welcome, Watched):
        message = protocol.receive(desk)
        assert message is not None
        assert isinstance(message[0], told)
    with pytest.raises(BlockingIOError):
        protocol.receive(desk)


def test_a_reader_through_a_read_only_mount_waits_until_a_new_desk_has_named_all_its_tiers(station: Station) -> None:
    station.reader()
    responder = station.responder
    (reader,) = responder._waiting
    responder.desk_came()
    responder._unasked.clear()
    assert responder._opened(reader, OSError(errno.EROFS, "read-only"))
    assert responder._leased == [reader]
    assert reader in responder._waiting
    responder._desk_came -= 10
    assert responder._opened(reader, OSError(errno.EROFS, "read-only"))
    assert reader not in responder._waiting
