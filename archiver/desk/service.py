"""The desk of the daemon with its two doors: the kernel's readers, and the socket for commands and mounts."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading

from archiver.desk.desk import RecallDesk
from archiver.desk.door import Door
from archiver.desk.kernel import KernelReaders
from archiver.desk.report import Report
from archiver.errors import ArchiverError
from archiver.lifecycle.site import Site
from archiver.tiers.local import LocalTier

_LOG = logging.getLogger("archiver.desk")


class DeskService:
    """`start` once what a crash left is settled; `stop` before the site is closed."""

    def __init__(self, site: Site) -> None:
        self._site = site
        settings = site.settings.recall
        self.desk = RecallDesk(site)
        # Where only `archiver recall` recalls, nobody needs to be noticed.
        self._kernel = KernelReaders(settings.socket, self.desk) if settings.mode == "transparent" else None
        self._opener = threading.Thread(target=self._open_engine, name="desk-engine", daemon=True)
        self._door = Door(settings.desk_socket, self.desk, self.report)

    def start(self) -> None:
        """Begin to answer. Raises CatalogUnavailable."""
        self.desk.start()
        if self._kernel is not None:
            self._kernel.start()
            self._site.recall_client = self._kernel.client
            if self._kernel.client.connected:
                self._opener.start()
        try:
            self._door.open()
        except OSError as error:
            # A machine without /run/archiver archives all the same; its readers come through `archiver-recall`.
            _LOG.warning("nobody can ask for recalls at %s: %s", self._site.settings.recall.desk_socket, error)
        self.watch_tiers()

    def watch_tiers(self) -> None:
        """Have reads on every tier noticed that can be reached now."""
        if self._kernel is not None:
            for tier in self._site.local_tiers:
                self._kernel.watch(tier)
                _warn_of_read_only(tier)

    def stop(self, *, for_good: bool) -> None:
        """End what is under way. For good: whoever waits gets its verdict; else the next desk is asked for them."""
        self._door.close()
        if for_good:
            self.desk.stop()
        if self._kernel is not None:
            self._kernel.close()
        if not for_good:
            self.desk.stop(for_good=False)
        if self._opener.ident is not None:
            self._opener.join()

    def _open_engine(self) -> None:
        """Now, and not while the first reader waits: it takes seconds. The weights are loaded when they are needed."""
        try:
            _LOG.debug("recalls by readers are made by a %s", type(self._site.engine).__name__)
        except ArchiverError as error:
            _LOG.warning("no reader of a released file can have an image: %s. %s", error.message, error.hint)

    def report(self) -> Report:
        """What `archiver status --recalls` shows."""
        found = self.desk.report()
        if self._kernel is None:
            return found
        return dataclasses.replace(found, responder=self._kernel.client.connected, watches=self._kernel.watches())


def _warn_of_read_only(tier: LocalTier) -> None:
    """A mount that was read-only when a service started stays so in the service's own namespace, whatever becomes of it
    outside.
    """
    try:
        read_only = os.fstatvfs(tier.root_fd).f_flag & os.ST_RDONLY
    except (ArchiverError, OSError):  # the scan says that it cannot be reached
        return
    if read_only:
        _LOG.warning(
            "%s is read-only here: nothing in it is released, and its readers get placeholders. A service writes where "
            "its ReadWritePaths= says (archiver.service.d/tiers.conf). Once it is writable: systemctl restart archiver",
            tier.root,
        )
