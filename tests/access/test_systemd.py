"""What the service manager is told, and what it is not told where it does not listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from archiver.access import systemd
from tests.access.watching import no_descriptor_free


def test_a_notification_reaches_the_service_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["/nowhere/notify", "@archiver-test-nobody", "/" + "long" * 100, "vsock:2:1234"])
def test_where_nobody_can_be_told_nobody_is(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify("WATCHDOG=1")
    systemd.store("group", 0)


def test_a_service_manager_that_has_gone_is_told_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with no_descriptor_free():
            systemd.notify("WATCHDOG=1")
    systemd.notify("WATCHDOG=1")
