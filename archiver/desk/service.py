"""The desk of the daemon with its two doors: the kernel's readers, and the socket for commands and mounts."""

from __future__ import annotations

import dataclasses
import logging

from archiver.desk.desk import RecallDesk
from archiver.desk.door import Door
from archiver.desk.kernel import KernelReaders
from archiver.desk.report import Report
from archiver.lifecycle.site import Site

_LOG = logging.getLogger("archiver.desk")


class DeskService:
    """`start` once what a crash left is settled; `stop` before the site is closed."""

    def __init__(self, site: Site) -> None:
        self._site = site
        settings = site.settings.recall
        self.desk = RecallDesk(site)
        # Where only `archiver recall` recalls, nobody needs to be noticed.
        self._kernel = KernelReaders(settings.socket, self.desk) if settings.mode == "transparent" else None
        self._door = Door(settings.desk_socket, self.desk, self.report)

    def start(self) -> None:
        """Begin to answer. Raises CatalogUnavailable."""
        self.desk.start()
        if self._kernel is not None:
            self._kernel.start()
            self._site.recall_client = self._kernel.client
        try:
            self._door.open()
        except OSError as error:
            # A machine without /run/archiver archives all the same; its readers come through `archiver-recall`.
            _LOG.warning("nobody can ask for recalls at %s: %s", self._site.settings.recall.desk_socket, error)
        self.watch_tiers()

    def watch_tiers(self) -> None:
        """Have reads on every tier noticed that can be reached now."""
        if self._kernel is not None:
            for tier in self._site.tiers.values():
                self._kernel.watch(tier)

    def stop(self, *, for_good: bool) -> None:
        """End what is under way. For good: whoever waits gets its verdict; else the next desk is asked for them."""
        self._door.close()
        if for_good:
            self.desk.stop()
        if self._kernel is not None:
            self._kernel.close()
        if not for_good:
            self.desk.stop()

    def report(self) -> Report:
        """What `archiver status --recalls` shows."""
        found = self.desk.report()
        if self._kernel is None:
            return found
        return dataclasses.replace(found, responder=self._kernel.client.connected, watches=self._kernel.watches())
