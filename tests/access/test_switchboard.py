"""The connections of `archiver-recall`, whoever is at their other end, and however that ends."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from archiver.access import protocol
from archiver.access.pipelog import PipeLog
from archiver.access.protocol import Hello, How, Role, Watch, Welcome, Withdrawn
from archiver.access.switchboard import Switchboard
from tests.access.watching import no_descriptor_free, until


class Responder:
    """Takes down what its clients want."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def let_through(self, pid: int) -> None:
        self.told.append("let through")

    def desk_came(self) -> None:
        self.told.append("desk came")

    def desk_left(self) -> None:
        self.told.append("desk left")

    def answered(self, id: int, errno: int) -> None:
        self.told.append(f"answered {id}")

    def watch(self, directory: int) -> tuple[How, int]:
        return How.READ, 0

    def forget(self, file: int) -> int:
        return 0


class Exchange:
    """A switchboard, and the loop around it, turn by turn."""

    def __init__(self, path: Path, cleanup: ExitStack) -> None:
        self.path, self.cleanup = path, cleanup
        self.selector = cleanup.enter_context(selectors.DefaultSelector())
        self.listener = cleanup.enter_context(protocol.connection())
        self.listener.bind(str(path))
        self.listener.listen()
        self.board = Switchboard(self.listener, self.selector, frozenset((os.geteuid(),)), PipeLog())
        self.board.handler = self.handler = Responder()

    def turn(self) -> None:
        self.board.tick()
        for key, mask in self.selector.select(0):
            key.data(mask)

    def client(self) -> socket.socket:
        peer = self.cleanup.enter_context(protocol.connection())
        peer.connect(str(self.path))
        return peer

    def desk(self) -> socket.socket:
        """One that has had a tier watched."""
        peer = self.client()
        self.turn()
        protocol.send(peer, Hello(Role.DESK))
        self.turn()
        root = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        protocol.send(peer, Watch(1), [root])
        os.close(root)
        self.turn()
        assert self.board.has_desk
        return peer


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    with ExitStack() as cleanup:
        yield Exchange(tmp_path / "recall.sock", cleanup)


def test_a_desk_that_ends_while_room_in_its_socket_is_waited_for_is_dropped_once(exchange: Exchange) -> None:
    desk = exchange.desk()
    while exchange.board.tell_desk(Withdrawn(1)):
        pass  # it reads nothing
    desk.close()
    ready = exchange.selector.select(0)
    assert not exchange.board.tell_desk(Withdrawn(2))  # as what came before it of the same turn may want
    for key, mask in ready:
        key.data(mask)
    assert exchange.handler.told == ["let through", "desk came", "desk left"]
    exchange.desk()


def test_who_cannot_be_let_in_for_want_of_descriptors_is_let_in_later(exchange: Exchange) -> None:
    peer = exchange.client()
    with no_descriptor_free():
        exchange.turn()
        assert exchange.selector.select(0) == [], "every turn would try again at once"
    protocol.send(peer, Hello(Role.TOOL))

    def is_let_in() -> bool:
        exchange.turn()
        return exchange.handler.told == ["let through"]

    until(is_let_in)
    assert protocol.receive(peer) == (Welcome(), [])
