"""The scan of a bucket: one listing (or inventory report) merged with the catalog, directory by directory, while both
arrive. Memory does not grow with the bucket, not even where one prefix holds millions of objects.

A directory that the listing touched gets the time of the scan for a fingerprint; what a complete listing did not touch
is looked at in the end. What the listing does not tell is unknown, not absent.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from archiver.catalog import Catalog
from archiver.catalog.rows import DirectoryChange, DirectoryRow, Found, Known
from archiver.errors import ArchiverError, TierNotScanned, TierUnreachable
from archiver.s3.address import etag64
from archiver.s3.doubts import Answer, Doubt, Inquiry, as_found, differs
from archiver.s3.listing import Part, Sieve, by_directory, listed
from archiver.s3.store import Listed
from archiver.s3.tier import S3Tier
from archiver.tiers.batches import Access, Batches
from archiver.tiers.report import Progress, ScanReport, Tally

_TOGETHER = 5000  # objects of one directory that are compared at a time
_PAGE = 1000
_ASKED = 16  # files of a directory that vanished, before the others are believed to have gone with it
_NS = 1_000_000_000


def scan_bucket(
    catalog: Catalog,
    tier: S3Tier,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> ScanReport:
    """Scan a whole tier. Once `stop` is set it ends after the page at hand; what it saw until then is kept.

    Raises TierUnreachable (nothing is gone then), InventoryUnusable, CatalogUnavailable.
    """
    scan = _Scan(catalog, tier, progress, stop)
    with scan.reachable():
        scan.adopt()
        complete = scan.run()
        report = scan.report(complete)
        if complete:
            catalog.finish_scan(scan.tier_id, int(time.time()), report.summary())
    return report


def scan_keys(catalog: Catalog, tier: S3Tier, keys: Iterable[str]) -> ScanReport:
    """Bring single objects up to date, each asked for by its key: new, changed or gone.

    Raises as `scan_bucket` does, and TierNotScanned before the first scan.
    """
    scan = _Scan(catalog, tier, None, None)
    if not scan.is_adopted:
        raise TierNotScanned(tier=tier.name)
    with scan.reachable():
        scan.look_at(keys)
    return scan.report(complete=True)


class _Scan:
    """One run over a tier, or over some of its objects."""

    def __init__(
        self,
        catalog: Catalog,
        tier: S3Tier,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._catalog, self._tier = catalog, tier
        self._progress, self._stop = progress, stop or threading.Event()
        self._began, self._now = time.monotonic(), int(time.time())
        self._generation = time.time_ns().to_bytes(8, "big")
        self._sieve = Sieve(tier.settings.exclude)
        self._known: dict[str, _KnownFiles] = {}  # of the directories that are being listed
        self._tally = Tally(skipped=self._sieve.skipped, unsupported=self._sieve.unsupported)
        row = catalog.ensure_tier(tier.name, tier.kind, tier.settings.root)
        self.tier_id, self.is_adopted = row.id, bool(row.identity)
        tier.expect(row.identity)

    def report(self, complete: bool) -> ScanReport:
        """The sums so far."""
        return self._tally.report(self._tier.name, complete, time.monotonic() - self._began)

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Note in the catalog whether the tier could be reached, from before the body to its end."""
        try:
            self._tier.check()
            yield
            self._tier.check()
        except TierUnreachable as error:
            self._catalog.mark_reachable(self.tier_id, False, error.message)
            raise
        self._catalog.mark_reachable(self.tier_id, True)

    def adopt(self) -> None:
        """From its first scan on only this bucket and prefix is the tier."""
        if not self.is_adopted:
            settings = self._tier.settings
            row = self._catalog.ensure_tier(self._tier.name, self._tier.kind, settings.root, self._tier.adopt())
            self._tier.expect(row.identity)

    # -- all of it -----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Read the whole listing; False if it was stopped."""
        with Inquiry(self._catalog, self._tier, self._tally.warn) as self._inquiry:
            with Batches(self._catalog, self._tier, self.tier_id) as batches:
                for part in by_directory(self._pages(), self._sieve, _TOGETHER, self._stop):
                    self._compare(part, batches)
            self._tally.applied = batches.applied
            if self._stop.is_set():
                return False
            with Batches(self._catalog, self._tier, self.tier_id) as batches:
                self._look_at_the_rest(batches)
            self._tally.applied = self._tally.applied.plus(batches.applied)
        return not self._stop.is_set()

    def _pages(self) -> Iterator[list[Listed]]:
        if self._tier.settings.inventory is None:
            return listed(self._tier.store)
        from archiver.s3.inventory import open_inventory

        return open_inventory(self._tier).pages()

    def _compare(self, part: Part, batches: Batches) -> None:
        known = self._known.get(part.directory)
        if known is None:
            self._tally.directories += 1
            row = self._catalog.directory(self.tier_id, part.directory)
            known = self._known[part.directory] = _KnownFiles(self._catalog, row)
        self._tally.files += len(part.objects)
        new: list[Found] = []
        doubts: list[Doubt] = []
        accesses: list[Access] = []
        for entry in part.objects:
            name = entry.key.rpartition("/")[2].encode()
            doubts += self._passed_over(part.directory, known.before(name))
            file, found = known.at(name), self._found(name, entry)
            if file is None:
                new.append(found)
            elif differs(file, found) or not self._inquiry.should_be_there(file):
                doubts.append(Doubt(file, entry.key))
            elif file.mtime_ns != found.mtime_ns:
                accesses.append((self.tier_id, entry.key, found.accessed_at))
        if part.whole:
            doubts += self._passed_over(part.directory, known.rest())
            del self._known[part.directory]
        self._add(batches, part.directory, known.directory, new, doubts, accesses)
        if self._progress is not None:
            self._progress(Progress(self._tally.files, self._tally.directories, part.directory))

    def _found(self, name: bytes, entry: Listed) -> Found:
        used = min(entry.modified_ns // _NS, self._now)
        return Found(name, entry.size, entry.modified_ns, etag64(entry.etag), used)

    def _passed_over(self, directory: str, rows: Iterable[Known]) -> list[Doubt]:
        there = (row for row in rows if self._inquiry.should_be_there(row))
        return [Doubt(row, _key(directory, row.name)) for row in there]

    def _add(
        self,
        batches: Batches,
        directory: str,
        row: DirectoryRow | None,
        new: list[Found],
        doubts: Sequence[Doubt],
        accesses: Sequence[Access] = (),
        answers: Sequence[Answer] | None = None,
    ) -> None:
        certain = self._inquiry.settle(doubts, answers)
        change = DirectoryChange(
            directory.encode(),
            row.id if row is not None else None,
            self._generation,
            new=new,
            changed=certain.changed,
            missing=certain.missing,
        )
        batches.add(change, accesses)

    def _look_at_the_rest(self, batches: Batches) -> None:
        """Directories that the listing did not touch: their files are gone, if asking for them says so, too."""
        for row in self._catalog.directories(self.tier_id):
            if self._stop.is_set():
                return
            if row.fingerprint is not None and row.fingerprint >= self._generation:
                continue  # of this scan, or of something later
            directory = row.path.decode()
            known_absent: bool | None = None
            rest = _KnownFiles(self._catalog, row).rest()
            while page := list(islice(rest, _PAGE)):
                doubts = self._passed_over(directory, page)
                if doubts and known_absent is None:
                    known_absent = self._is_empty(directory, [doubt.key for doubt in doubts[:_ASKED]])
                if doubts:
                    self._add(
                        batches, directory, row, [], doubts, answers=[None] * len(doubts) if known_absent else None
                    )

    def _is_empty(self, directory: str, some: Sequence[str]) -> bool:
        """Whether there is nothing at all below a directory: one question instead of one for every file.

        It is the question that may have been answered wrongly before: `some` of the files are asked for all the same.
        """
        if not directory or next(self._tier.store.list(f"{directory}/"), None) is not None:
            return False
        return all(answer is None for answer in self._inquiry.heads(some))

    # -- some of it ----------------------------------------------------------------------------------------------------

    def look_at(self, keys: Iterable[str]) -> None:
        """Ask for single objects."""
        wanted = sorted({key for key in keys if self._sieve.lets_through(key)})
        folders: defaultdict[str, list[str]] = defaultdict(list)
        for key in wanted:
            folders[key.rpartition("/")[0]].append(key)
        with (
            Inquiry(self._catalog, self._tier, self._tally.warn) as self._inquiry,
            Batches(self._catalog, self._tier, self.tier_id) as batches,
        ):
            for directory, inside in folders.items():
                self._tally.directories += 1
                self._tally.files += len(inside)
                new: list[Found] = []
                doubts: list[Doubt] = []
                answers: list[Answer] = []
                for key, answer in zip(inside, self._inquiry.heads(inside), strict=True):
                    file = self._catalog.find(self.tier_id, key)
                    if file is not None:
                        known = Known(file.id, file.name.encode(), file.state, *file.version)
                        doubts.append(Doubt(known, key))
                        answers.append(answer)
                    elif isinstance(answer, ArchiverError):
                        self._tally.warn(str(self._tier.url(key)), answer.message)
                    elif answer is not None:
                        new.append(as_found(answer))
                row = self._catalog.directory(self.tier_id, directory)
                self._add(batches, directory, row, new, doubts, answers=answers)
        self._tally.applied = batches.applied


class _KnownFiles:
    """What the catalog has of one directory, in the order of the names, page by page; each is handed out once."""

    def __init__(self, catalog: Catalog, directory: DirectoryRow | None) -> None:
        self.directory = directory
        self._rows: Iterator[Known] = iter(()) if directory is None else _paged(catalog, directory.id)
        self._next: Known | None = next(self._rows, None)

    def before(self, name: bytes) -> Iterator[Known]:
        """Files with names before `name`."""
        while self._next is not None and self._next.name < name:
            yield self._take()

    def at(self, name: bytes) -> Known | None:
        """The file of that name."""
        return self._take() if self._next is not None and self._next.name == name else None

    def rest(self) -> Iterator[Known]:
        """All that are left."""
        while self._next is not None:
            yield self._take()

    def _take(self) -> Known:
        assert self._next is not None
        taken, self._next = self._next, next(self._rows, None)
        return taken


def _paged(catalog: Catalog, directory_id: int) -> Iterator[Known]:
    name = b""
    while page := catalog.files_behind(directory_id, name, _PAGE):
        yield from page
        name = page[-1].name


def _key(directory: str, name: bytes) -> str:
    return f"{directory}/{name.decode()}" if directory else name.decode()
