"""How a command or a mount talks to the desk of a running daemon; see archiver.desk.door. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pydantic import TypeAdapter

from archiver.desk.history import Event
from archiver.desk.report import Report
from archiver.errors import DeskUnreachable

MOST_BYTES = 400_000  # of a packet; a report of the longest paths has less
_PATIENCE = 10.0  # seconds for an answer that needs nothing but the daemon's attention


def connect(path: Path) -> socket.socket:
    """A connection to the daemon's desk. Raises DeskUnreachable."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        peer.settimeout(_PATIENCE)
        peer.connect(os.fspath(path))
    except OSError as error:
        peer.close()
        raise DeskUnreachable(path=path, reason=error.strerror or str(error)) from None
    return peer


def report(path: Path) -> Report:
    """The desk at this moment. Raises DeskUnreachable."""
    with closing(connect(path)) as peer:
        _ask(path, peer, {"want": "report"})
        return TypeAdapter(Report).validate_python(json.loads(_packet(path, peer)))


def events(path: Path) -> Iterator[Event]:
    """What readers get, as it happens, until the daemon ends. Raises DeskUnreachable."""
    with closing(connect(path)) as peer:
        _ask(path, peer, {"want": "events"})
        peer.settimeout(None)
        validate = TypeAdapter(Event).validate_python
        while packet := peer.recv(MOST_BYTES):
            yield validate(json.loads(packet))


def ask_recall(path: Path, fd: int, pid: int, pidfd: int | None = None) -> socket.socket:
    """Ask for the image of a placeholder that is open (O_RDWR) at `fd`, for process `pid`. Raises DeskUnreachable.

    `verdict` of what is returned waits for the answer; closing it withdraws the question. The descriptors stay the
    caller's.
    """
    peer = connect(path)
    try:
        _ask(path, peer, {"want": "recall", "pid": pid}, [fd] if pidfd is None else [fd, pidfd])
    except BaseException:
        peer.close()
        raise
    peer.settimeout(None)
    return peer


def verdict(path: Path, peer: socket.socket) -> int:
    """The errno that the reader gets, 0 to go on. Raises DeskUnreachable when the daemon ends before."""
    return int(json.loads(_packet(path, peer))["errno"])


def _ask(path: Path, peer: socket.socket, wanted: dict[str, object], descriptors: Sequence[int] = ()) -> None:
    try:
        socket.send_fds(peer, [json.dumps(wanted).encode()], list(descriptors), socket.MSG_NOSIGNAL)
    except OSError as error:
        raise DeskUnreachable(path=path, reason=error.strerror or str(error)) from None


def _packet(path: Path, peer: socket.socket) -> bytes:
    try:
        packet = peer.recv(MOST_BYTES)
    except OSError as error:
        raise DeskUnreachable(path=path, reason=error.strerror or str(error)) from None
    if not packet:
        raise DeskUnreachable(path=path, reason="it hung up")
    return packet
