"""sd_notify: what systemd is told of the daemon's state. Without systemd every call is silent, and none ever raises."""

from __future__ import annotations

import logging
import os

from cysystemd.daemon import Notification, notify

_LOG = logging.getLogger("archiver.notify")
_RELOAD = 10  # times the watchdog's deadline: what a reload may take


class Notifier:
    """Readiness, reloads, stops and the watchdog of a Type=notify service."""

    def __init__(self) -> None:
        self._under_systemd = bool(os.environ.get("NOTIFY_SOCKET"))
        self._complained = False
        self._deadline = int(os.environ.get("WATCHDOG_USEC", "0"))
        # Half the deadline, as sd_watchdog_enabled(3) recommends; a minute where nobody waits.
        self.interval = self._deadline / 2_000_000 if self._deadline else 60.0

    def ready(self, status: str) -> None:
        """Serving; `status` is what `systemctl status` shows."""
        self._tell(Notification.READY)
        self._tell(Notification.STATUS, status)
        self._set_watchdog(self._deadline)

    def reloading(self) -> None:
        """Reading the configuration again; `ready` follows.

        Until then nobody feeds the watchdog: what is under way has to end first, and may take its time.
        """
        self._tell(Notification.RELOADING)
        self._set_watchdog(_RELOAD * self._deadline)

    def stopping(self) -> None:
        """Ending on purpose."""
        self._tell(Notification.STOPPING)

    def watchdog(self) -> None:
        """Still alive."""
        self._tell(Notification.WATCHDOG)

    def _set_watchdog(self, microseconds: int) -> None:
        if self._deadline:
            self._tell(Notification.WATCHDOG_USEC, microseconds)

    def _tell(self, what: Notification, value: str | int = 0) -> None:
        if not self._under_systemd:
            return
        try:
            notify(what, value, return_exceptions=False)
        except Exception as error:  # of several kinds: a socket that is gone, an address that is none
            if not self._complained:
                where = os.environ.get("NOTIFY_SOCKET")
                _LOG.warning("systemd cannot be told at NOTIFY_SOCKET=%s that this serves: %s", where, error)
            self._complained = True
