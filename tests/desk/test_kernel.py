"""Questions of `archiver-recall` at the desk, over a socket of the test's own."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from archiver import formats
from archiver.access import protocol
from archiver.access.protocol import Answer, Ask, Hello, How, Message, Role, Welcome
from archiver.desk.desk import RecallDesk
from archiver.desk.history import Ending
from archiver.desk.kernel import KernelReaders
from archiver.lifecycle.site import Site
from tests.desk.conftest import PATIENCE, Gate, desk_of
from tests.desk.test_desk import kind_of


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with protocol.connection() as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        yield listener


@contextmanager
def connected(desk: RecallDesk, listener: socket.socket, path: Path) -> Iterator[socket.socket]:
    """The desk's connection, from its other end."""
    readers = KernelReaders(path, desk)
    readers._thread.start()
    readers.client._thread.start()  # not waiting for the Welcome, which is to come from here
    try:
        yield welcomed(listener)
    finally:
        readers.close()


def welcomed(listener: socket.socket) -> socket.socket:
    peer, _ = listener.accept()
    peer.settimeout(PATIENCE)
    assert received(peer) == Hello(Role.DESK)
    protocol.send(peer, Welcome())
    return peer


def received(peer: socket.socket) -> Message:
    found = protocol.receive(peer)
    assert found is not None
    return found[0]


def ask_about(peer: socket.socket, id: int, path: Path) -> None:
    with path.open("r+b") as file:
        protocol.send(peer, Ask(id, os.getpid(), How.READ, 60_000), [file.fileno()])


def test_who_is_asked_about_again_on_a_new_connection_waits_for_the_image(
    site: Site, released: list[Path], tmp_path: Path
) -> None:
    gate, path = Gate(site, is_open=False), tmp_path / "recall.sock"
    withdrawn = threading.Event()
    with desk_of(site, on_failure="error") as desk, listening(path) as listener:
        desk.history.follow(lambda event: withdrawn.set() if event.ending is Ending.LEFT else None)
        with connected(desk, listener, path) as first:
            ask_about(first, 7, released[0])
            gate.reached.acquire()
            first.close()
            with welcomed(listener) as second:
                ask_about(second, 7, released[0])
                assert withdrawn.wait(PATIENCE)  # what the first connection asked
                second.setblocking(False)
                with pytest.raises(BlockingIOError):
                    protocol.receive(second)
                second.settimeout(PATIENCE)
                gate.open()
                assert received(second) == Answer(7, 0)
                assert kind_of(released[0]) is formats.Kind.GENERATED


def test_a_reader_that_is_taken_in_late_has_waited_since_it_came(
    site: Site, released: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, clock = Gate(site, is_open=False), [0.0]
    monkeypatch.setattr("archiver.desk.kernel.time", SimpleNamespace(monotonic=lambda: clock[0]))
    endings: queue.SimpleQueue[Ending] = queue.SimpleQueue()
    with desk_of(site) as desk:
        desk.history.follow(lambda event: endings.put(event.ending))
        readers = KernelReaders(tmp_path / "recall.sock", desk)
        readers.asked(Ask(7, os.getpid(), How.READ, 60_000), os.open(released[0], os.O_RDWR), None)
        clock[0] = 60.0
        readers._thread.start()
        assert endings.get(timeout=PATIENCE / 4) is Ending.LATE
        gate.open()
        readers._inbox.put(None)
        readers._thread.join()
