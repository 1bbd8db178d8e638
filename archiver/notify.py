"""sd_notify: what systemd is told of the daemon's state. Without systemd every call is silent."""

from __future__ import annotations

import os

from cysystemd.daemon import Notification, notify


class Notifier:
    """Readiness, reloads, stops and the watchdog of a Type=notify service."""

    def __init__(self) -> None:
        self._under_systemd = "NOTIFY_SOCKET" in os.environ
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        # Half the deadline, as sd_watchdog_enabled(3) recommends; a minute where nobody waits.
        self.interval = microseconds / 2_000_000 if microseconds else 60.0

    def ready(self, status: str) -> None:
        """Serving; `status` is what `systemctl status` shows."""
        self._tell(Notification.READY)
        self._tell(Notification.STATUS, status)

    def reloading(self) -> None:
        """Reading the configuration again; `ready` follows."""
        self._tell(Notification.RELOADING)

    def stopping(self) -> None:
        """Ending on purpose."""
        self._tell(Notification.STOPPING)

    def watchdog(self) -> None:
        """Still alive."""
        self._tell(Notification.WATCHDOG)

    def _tell(self, what: Notification, value: str | int = 0) -> None:
        if self._under_systemd:
            notify(what, value, return_exceptions=False)
