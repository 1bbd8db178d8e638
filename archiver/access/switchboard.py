"""The connections of `archiver-recall`: who is let through, who the desk is, and what they ask for."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from archiver.access import protocol
from archiver.access.pipelog import PipeLog
from archiver.access.protocol import (
    Answer,
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
)

_PAUSE = 1.0  # seconds without listening where nobody can be let in; a descriptor may be free then
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Handler(Protocol):
    """What the responder does for its clients."""

    def let_through(self, pid: int) -> None: ...
    def desk_came(self) -> None: ...
    def desk_left(self) -> None: ...
    def answered(self, id: int, errno: int) -> None: ...
    def watch(self, directory: int) -> tuple[How, int]: ...
    def forget(self, file: int) -> int: ...


@dataclass(slots=True)
class _Client:
    """One connection. roots: of the tiers whose filesystems it had watched."""

    peer: socket.socket
    pid: int
    role: Role | None = None
    roots: list[int] = field(default_factory=list)


class Switchboard:
    """All connections; `handler` is told what comes in. Nothing here waits for a client."""

    def __init__(
        self, listener: socket.socket, selector: selectors.BaseSelector, users: frozenset[int], log: PipeLog
    ) -> None:
        self._listener, self._selector, self._users, self._log = listener, selector, users, log
        self._through: Counter[int] = Counter()
        self._clients: dict[int, _Client] = {}
        self._desk: _Client | None = None
        self._listen_again: float | None = None  # when, while it does not listen
        self.handler: Handler
        listener.setblocking(False)
        self._listen()

    def lets_through(self, pid: int) -> bool:
        """Whether this process is one of archiver's."""
        return self._through[pid] > 0

    @property
    def has_desk(self) -> bool:
        """Whether there is anybody to ask: a desk that has said which tiers are its own."""
        return self._desk is not None and bool(self._desk.roots)

    def roots(self) -> Iterator[int]:
        """Descriptors of the watched tiers' roots."""
        for client in self._clients.values():
            yield from client.roots

    def tell_desk(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send the desk something; False if it has too much to read already, or is not there."""
        desk = self._desk
        if desk is None:
            return False
        try:
            protocol.send(desk.peer, message, descriptors)
        except BlockingIOError:
            self._await_room(desk, True)
            return False
        except OSError:
            self._drop(desk)
            return False
        return True

    def tick(self) -> None:
        """To be called now and then."""
        if self._listen_again is not None and time.monotonic() >= self._listen_again:
            self._listen()

    # -- connections ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())
        self._listen_again = None

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Who cannot be let in stays at the door, and every turn would begin with that.
            self._log.seldom(f"nobody is let in for now: {error}")
            self._selector.unregister(self._listener)
            self._listen_again = time.monotonic() + _PAUSE
            return
        pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in self._users or pid == 0:
            self._log.warning(f"process {pid} of user {uid} was turned away")
            peer.close()
            return
        peer.setblocking(False)
        client = self._clients[peer.fileno()] = _Client(peer, pid)
        self._selector.register(peer, selectors.EVENT_READ, lambda mask: self._ready(client, mask))

    def _ready(self, client: _Client, mask: int) -> None:
        if client.peer.fileno() not in self._clients:
            return  # it was dropped by what came before it of the same turn
        if mask & selectors.EVENT_WRITE:
            self._await_room(client, False)
        if mask & selectors.EVENT_READ:
            try:
                received = protocol.receive(client.peer)
                if received is None:
                    self._drop(client)
                else:
                    self._dispatch(client, *received)
            except BlockingIOError:
                return
            except (ProtocolError, OSError) as error:
                self._log.seldom(f"the connection to process {client.pid} is given up: {error}")
                self._drop(client)

    def _await_room(self, client: _Client, wanted: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._selector.modify(client.peer, events, self._selector.get_key(client.peer).data)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.peer.fileno(), None) is None:
            return
        self._selector.unregister(client.peer)
        client.peer.close()
        for root in client.roots:
            os.close(root)
        if client.role is not None:
            self._through[client.pid] -= 1
            self._through += Counter()  # forgets the zeros
        if client is self._desk:
            self._desk = None
            self._log.info(f"the desk, process {client.pid}, has gone")
            self.handler.desk_left()

    # -- messages ------------------------------------------------------------------------------------------------------

    def _dispatch(self, client: _Client, message: Message, descriptors: list[int]) -> None:
        kept: list[int] = []
        try:
            if isinstance(message, Hello) and client.role is None:
                self._welcome(client, message.role)
            elif client.role is None:
                raise ProtocolError(f"{type(message).__name__} before Hello")
            elif isinstance(message, Forget):
                protocol.send(client.peer, Forgotten(message.id, self.handler.forget(descriptors[0])))
            elif isinstance(message, Answer) and client is self._desk:
                self.handler.answered(message.id, message.errno)
            elif isinstance(message, Watch) and client is self._desk:
                how, code = self.handler.watch(descriptors[0])
                if how is not How.NOTHING:
                    kept = descriptors
                    client.roots += descriptors
                protocol.send(client.peer, Watched(message.id, how, code))
            else:
                raise ProtocolError(f"{type(message).__name__} from a {client.role.name.lower()}")
        finally:
            for descriptor in descriptors:
                if descriptor not in kept:
                    os.close(descriptor)

    def _welcome(self, client: _Client, role: Role) -> None:
        if role is Role.DESK and self._desk is not None:
            raise ProtocolError(f"process {self._desk.pid} is the desk")
        client.role = role
        self._through[client.pid] += 1
        self.handler.let_through(client.pid)
        protocol.send(client.peer, Welcome())
        if role is Role.DESK:
            self._desk = client
            self._log.info(f"the desk is process {client.pid}")
            self.handler.desk_came()
