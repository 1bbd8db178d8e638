"""The walk of a scan: which directories are looked at, what is left out, and when the catalog is told."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from archiver.catalog import Catalog
from archiver.catalog.rows import LONGEST_PATH, DirectoryRow
from archiver.errors import TierBeingScanned, TierUnreachable, from_os_error
from archiver.mounts import mounts
from archiver.tiers import fileops
from archiver.tiers.batches import Batches
from archiver.tiers.compare import Comparison, as_new
from archiver.tiers.listing import Exclusion, Listing, Skip, list_directory
from archiver.tiers.local import LocalTier
from archiver.tiers.report import Progress, ScanReport, Tally

_NO_AREA = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


class Walk:
    """One run over a tier, or over a part of it."""

    def __init__(
        self,
        catalog: Catalog,
        tier: LocalTier,
        progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._catalog, self._tier = catalog, tier
        self._progress, self._stop = progress, stop or threading.Event()
        self._began, self._now = time.monotonic(), int(time.time())
        self._exclusion = Exclusion(tier.settings.exclude)
        self._comparison = Comparison(catalog, tier, self._now)
        self.tally = Tally()
        row = catalog.ensure_tier(tier.name, tier.settings.kind, str(tier.root))
        self.tier_id, self.is_adopted = row.id, bool(row.identity)
        tier.expect(row.identity or None)

    def report(self, complete: bool) -> ScanReport:
        """The sums so far."""
        return self.tally.report(self._tier.name, complete, time.monotonic() - self._began)

    # -- the tier itself -----------------------------------------------------------------------------------------------

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Note in the catalog whether the tier could be reached, from before the body to its end."""
        try:
            self._tier.check()
            yield
        except TierUnreachable as error:
            self._catalog.mark_reachable(self.tier_id, False, error.message)
            raise
        except OSError as error:
            raise from_os_error(error, self._tier.root) from error
        self._catalog.mark_reachable(self.tier_id, True)

    def is_blank(self) -> bool:
        """Whether the tier was never seen and its folder is empty: most likely the disk is not mounted yet."""
        return not self.is_adopted and not os.listdir(self._tier.root_fd)

    def adopt(self) -> None:
        """From its first scan on only this folder of this filesystem is the tier."""
        if not self.is_adopted:
            identity = str(self._tier.check())
            row = self._catalog.ensure_tier(self._tier.name, self._tier.settings.kind, str(self._tier.root), identity)
            self._tier.expect(row.identity)

    # -- the walk ------------------------------------------------------------------------------------------------------

    def run(self, start: str, *, new_only: bool = False) -> bool:
        """Walk from `start`, with `new_only` only into directories the catalog does not know; False if stopped."""
        self._device = os.fstat(self._tier.root_fd).st_dev
        self._mounts = mounts_below(self._tier.root)
        self._keep_atime = self._tier.keeps_atime()
        with Batches(self._catalog, self._tier, self.tier_id) as self._batches:
            children = self._visit(start, self._catalog.directory(self.tier_id, start))
            while children is None and start:
                start = start.rpartition("/")[0]
                children = self._visit(start, self._catalog.directory(self.tier_id, start))
            stack = self._next(children or [], new_only)
            while stack and not self._stop.is_set():
                stack += self._next(self._visit(*stack.pop()) or [], new_only)
        self.tally.applied = self._batches.applied
        return not stack

    def _next(self, children: list[Child], new_only: bool) -> list[Child]:
        """Those to be visited, the first one last."""
        return [child for child in reversed(children) if child[1] is None or not new_only]

    def _visit(self, path: str, known: DirectoryRow | None) -> list[Child] | None:
        """Look at one directory. Its subdirectories, with what the catalog has of them; None where it is not there."""
        if path in self._mounts:
            self.tally.skipped[Skip.MOUNT] += 1
            return []
        if len(os.fsencode(path)) > LONGEST_PATH:
            self.tally.skipped[Skip.TOO_DEEP] += 1
            self.tally.warn(str(self._tier.root / path), "the path is too long for the catalog")
            return []
        try:
            fd = fileops.open_directory(self._tier.root_fd, path)
        except (FileNotFoundError, NotADirectoryError):
            return None  # vanished since its parent was read; the next scan finds it missing there
        except OSError as error:
            self._unreadable(path, error)
            return []
        try:
            if os.fstat(fd).st_dev != self._device:  # a subvolume: a mount that is no mount point
                self.tally.skipped[Skip.MOUNT] += 1
                return []
            listing = list_directory(fd, self._keep_atime)
            self._exclusion.apply(listing, path)
            self.tally.add(listing)
            children = self._compare(fd, path, known, listing)
        finally:
            os.close(fd)
        if listing.problem is not None:
            self._unreadable(path, listing.problem)
        if self._progress is not None:
            self._progress(Progress(self.tally.files, self.tally.directories, path))
        return children

    def _compare(self, fd: int, path: str, known: DirectoryRow | None, listing: Listing) -> list[Child]:
        prefix = f"{path}/" if path else ""
        fingerprint = listing.fingerprint() if listing.problem is None else None
        if known is None:
            if listing.files or listing.directories:
                self._batches.add(as_new(os.fsencode(path), listing, fingerprint, self._now))
            return [(prefix + name, None) for name in listing.directories]
        unchanged = fingerprint is not None and fingerprint == known.fingerprint
        if unchanged and not listing.directories:
            return []  # nearly every directory of nearly every scan: not one question to the catalog
        rows = self._catalog.children(known.id)
        if not unchanged:
            difference = self._comparison.compare(fd, known, rows, listing, fingerprint)
            accesses = [(self.tier_id, prefix + name, at) for name, at in difference.accesses]
            self._batches.add(difference.change, accesses)
        by_path = {row.path: row for row in rows}
        return [(prefix + name, by_path.get(os.fsencode(prefix + name))) for name in listing.directories]

    def _unreadable(self, path: str, error: OSError) -> None:
        self.tally.skipped[Skip.UNREADABLE] += 1
        self.tally.warn(str(self._tier.root / path), error.strerror or str(error))


Child = tuple[str, DirectoryRow | None]  # a directory's path, and what the catalog has of it


@contextmanager
def alone(tier: LocalTier) -> Iterator[None]:
    """Keep other scans of a tier out, of this process and others: the older of two listings must not win.

    Raises TierBeingScanned, TierUnreachable.
    """
    try:
        # Opened anew: of one description, flock would let every thread in.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tier.area_fd)
    except OSError as error:
        if error.errno not in _NO_AREA:
            raise
        yield  # where there cannot even be an area nothing is ever released, so that no two scans can disagree
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TierBeingScanned(tier=tier.name) from None
        yield
    finally:
        os.close(fd)


def mounts_below(root: Path) -> frozenset[str]:
    """Paths, relative to `root`, where something else is mounted. Bind mounts have no other sign of it."""
    top = str(root.resolve()).rstrip("/") + "/"
    return frozenset(mount.point.removeprefix(top) for mount in mounts() if mount.point.startswith(top))
