"""What systemd is told, and that its absence harms nobody."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from archiver.notify import Notifier


def test_systemd_is_told_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier()
        notifier.ready("serving")
        notifier.watchdog()
        assert [manager.recv(1000) for _ in range(3)] == [b"READY=1", b"STATUS=serving", b"WATCHDOG=1"]


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
