"""Watching a tier between scans: what changed is scanned soon, and what was read is known.

One thread reads the kernel's events, another scans. Events only say where to look; the truth is what a scan of that
directory finds. Where events may have been lost (at the start, after an overflow, after the disk was away) the whole
tier is scanned.

Reads: where the filesystem keeps access times they are taken from there, so that our own reads (which leave them alone)
and those of backups that do the same never make a file look used. A directory with reads is silenced until it was
scanned: busy files cost one event a minute. Under noatime every read is an event, but for those that
`LocalTier.own_reads` names.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable

from archiver.catalog import Catalog
from archiver.errors import (
    ArchiverError,
    TierBeingScanned,
    TierNotScanned,
    from_os_error,
)
from archiver.tiers.agenda import Agenda, Due, Timing
from archiver.tiers.inotify import Event, Mask
from archiver.tiers.listing import AREA, tracked_kind
from archiver.tiers.local import Identity, LocalTier
from archiver.tiers.report import ScanReport
from archiver.tiers.scan import scan, scan_directory
from archiver.tiers.watches import Watches

__all__ = ["Timing", "Watcher"]

_LOG = logging.getLogger("archiver.watch")


class Watcher:
    """Keeps the catalog of one tier up to date between scans. `heard` gets the report of every scan it made."""

    def __init__(
        self,
        catalog: Catalog,
        tier: LocalTier,
        *,
        timing: Timing | None = None,
        heard: Callable[[ScanReport], None] | None = None,
    ) -> None:
        self._catalog, self._tier = catalog, tier
        self._timing = timing or Timing()
        self._heard = heard or (lambda _report: None)
        self._agenda = Agenda(self._timing)
        self._watches: Watches | None = None
        self._tier_id = 0
        self._stop = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._complaint = ""
        self._failed = False
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), name=f"archiver-{name}-{tier.name}", daemon=True)
            for name, body in (("watch", self._watch), ("rescan", self._rescan))
        ]

    def start(self) -> None:
        """Begin to watch, and scan the tier once it is watched. Returns at once, even where it cannot be reached."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads and wait for them; a scan under way stops at its next directory."""
        self._stop.set()
        os.eventfd_write(self._wake, 1)
        self._agenda.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        os.close(self._wake)

    @property
    def alive(self) -> bool:
        """False once one of its threads has died of a defect."""
        return not self._failed

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException:
            self._failed = True
            raise

    def _complain(self, failure: ArchiverError | OSError) -> None:
        """Warn, but of the same thing only once in a row."""
        error = from_os_error(failure, self._tier.root) if isinstance(failure, OSError) else failure
        if error.message != self._complaint:
            _LOG.warning("watching %s: %s. %s", self._tier.name, error.message, error.hint)
        self._complaint = error.message

    # -- events --------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                identity = self._tier.check()
                with Watches(self._tier) as watches:
                    self._listen(watches, identity)
            except (ArchiverError, OSError) as error:
                self._complain(error)
                self._stop.wait(self._timing.retry)

    def _listen(self, watches: Watches, identity: Identity) -> None:
        """Watch the tier and handle events until it has to be begun anew."""
        watches.add_tree("", self._stop)
        if watches.limit is not None:
            self._complain(watches.limit)
        keeps_atime = self._tier.keeps_atime()
        self._watches = watches
        self._agenda.everything()
        poll = select.poll()
        poll.register(watches.inotify, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._stop.is_set():
            if not poll.poll(self._timing.retry * 1000) and self._tier.check() != identity:
                return  # something was mounted over it
            for event in watches.inotify.read():
                if not self._handle(watches, event, keeps_atime):
                    return

    def _handle(self, watches: Watches, event: Event, keeps_atime: bool) -> bool:
        """False where events were lost or the tier's folder went away."""
        mask, name = event.mask, event.name
        if mask & Mask.OVERFLOW:
            _LOG.warning(
                "watching %s: more changes than the kernel could queue; the whole tier is scanned", self._tier.name
            )
            return False
        directory = watches.path_of(event.watch)
        if mask & (Mask.IGNORED | Mask.UNMOUNT | Mask.DELETE_SELF | Mask.MOVE_SELF):
            if mask & Mask.IGNORED:
                watches.drop(event.watch)
            return directory != ""
        if directory is None or name == AREA:
            return True
        if mask & Mask.ISDIR:
            if not mask & Mask.CLOSE_NOWRITE:  # which is somebody listing it
                self._directory_changed(watches, directory, name, mask)
        elif tracked_kind(name) == "":
            if not mask & Mask.CLOSE_NOWRITE:
                self._agenda.changed(directory)
            else:
                self._was_read(watches, directory, name, keeps_atime)
        return True

    def _directory_changed(self, watches: Watches, directory: str, name: str, mask: int) -> None:
        self._agenda.changed(directory)
        if not name:
            return
        path = f"{directory}/{name}" if directory else name
        if mask & (Mask.MOVED_FROM | Mask.DELETE):
            watches.drop_tree(path)
        # Made or moved here, or perhaps it may be read now. Where one went, another may have come before it was told.
        for fresh in watches.add_tree(path, self._stop):
            self._agenda.changed(fresh)
        if watches.limit is not None:
            self._complain(watches.limit)

    def _was_read(self, watches: Watches, directory: str, name: str, keeps_atime: bool) -> None:
        if keeps_atime:
            if self._agenda.read(directory):
                watches.hear_reads(directory, False)
            return
        path = f"{directory}/{name}" if directory else name
        if path not in self._tier.own_reads:
            self._agenda.accessed(path, int(time.time()))

    # -- scans ---------------------------------------------------------------------------------------------------------

    def _rescan(self) -> None:
        while (due := self._agenda.wait()) is not None:
            try:
                self._do(due)
            except TierBeingScanned:
                self._agenda.put_back(due)
            except (ArchiverError, OSError) as error:
                self._complain(error)
                self._agenda.put_back(due)
            else:
                self._complaint = ""

    def _do(self, due: Due) -> None:
        if self._watches is not None:
            for directory in due.read:  # first, so that nothing read during the scan is missed
                self._watches.hear_reads(directory, True)
        if due.accesses:
            tier = self._catalog.ensure_tier(self._tier.name, self._tier.settings.kind, str(self._tier.root))
            self._catalog.note_access([(tier.id, path, at) for path, at in due.accesses.items()])
        if due.everything:
            self._tell(scan(self._catalog, self._tier, stop=self._stop))
            return
        for directory in dict.fromkeys(due.changed + due.read):
            if self._stop.is_set():
                return
            try:
                report = scan_directory(self._catalog, self._tier, directory, stop=self._stop)
            except TierNotScanned:  # there was nothing in it until now
                report = scan(self._catalog, self._tier, stop=self._stop)
            self._tell(report)

    def _tell(self, report: ScanReport) -> None:
        if any(report.changes):
            _LOG.info("watching %s: %s", self._tier.name, report.summary())
        self._heard(report)
