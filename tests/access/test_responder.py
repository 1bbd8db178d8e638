"""What the responder keeps of its readers, event by event; tests/access/test_recall_service.py has it as a process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fixtures_fs import need_root, unavailable

from archiver.access import fanotify
from archiver.access.board import Board
from archiver.access.fanotify import PRE_ACCESS, Event
from archiver.access.heads import Finding
from archiver.access.pipelog import PipeLog
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


def test_nothing_is_kept_of_readers_that_are_too_many(station: Station) -> None:
    station.responder._most_waiting = 0
    station.reader()
    assert (len(station.responder._waiting), len(station.responder._unasked)) == (0, 0)
