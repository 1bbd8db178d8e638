"""What systemd is told, and that its absence harms nobody."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from archiver.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd listens at."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "notify"))
        yield listening


def told(manager: socket.socket) -> list[bytes]:
    lines = []
    with suppress(BlockingIOError):
        while True:
            lines.append(manager.recv(1000))
    return lines


def test_systemd_is_told_what_it_waits_for(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notifier = Notifier()
    notifier.ready("serving")
    notifier.watchdog()
    assert told(manager) == [b"READY=1", b"STATUS=serving", b"WATCHDOG=1"]


def test_a_reload_has_more_time_than_the_watchdog_leaves_otherwise(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "120000000")
    notifier = Notifier()
    notifier.reloading()
    assert told(manager) == [b"RELOADING=1", b"WATCHDOG_USEC=1200000000"]
    notifier.ready("serving")
    assert told(manager) == [b"READY=1", b"STATUS=serving", b"WATCHDOG_USEC=120000000"]


@pytest.mark.parametrize("address", ["/nowhere/notify", "relative", "/" + 200 * "long"])
def test_a_socket_that_is_not_there_is_complained_about_once(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    with caplog.at_level(logging.WARNING):
        notifier.ready("serving")
        notifier.watchdog()
        notifier.stopping()
    assert len(caplog.records) == 1
