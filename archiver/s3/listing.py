"""What of a bucket concerns us, directory by directory, from a listing of any length, in flat memory.

Keys come in the order of their bytes (S3) or as a tree is walked (SeaweedFS, MinIO). Either way all that begins with
"a/" lies together, and the names within one directory ascend, which is all that is relied upon. And if a server broke
even that: nothing is called missing before it was asked for by its name.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from archiver.catalog.rows import LONGEST_PATH
from archiver.config import compile_patterns, path_matches
from archiver.config_tiers import AREA
from archiver.s3.store import Listed, ObjectStore
from archiver.tiers.listing import Skip, tracked_kind

_BEHIND_AREA = f"{AREA}/\U0010ffff"  # no key of ours sorts behind it


@dataclass
class Sieve:
    """Which objects are tracked: names of images, none of ours, none excluded; what else there is is counted."""

    exclude: tuple[str, ...] = ()
    skipped: Counter[Skip] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._spec = compile_patterns(self.exclude) if self.exclude else None

    def lets_through(self, key: str) -> bool:
        """Whether an object of that key is tracked."""
        directory, _, name = key.rpartition("/")
        kind = tracked_kind(name)
        if kind != "":
            if kind:
                self.unsupported[kind] += 1
            elif not name:
                self.skipped[Skip.MARKER] += 1
            return False
        if directory == AREA or directory.startswith(f"{AREA}/"):
            return False
        if key.startswith("/") or (directory and not {".", ".."}.isdisjoint(directory.split("/"))) or "\0" in key:
            self.skipped[Skip.UNNAMEABLE] += 1
            return False
        if len(directory) > LONGEST_PATH // 4 and len(directory.encode()) > LONGEST_PATH:
            self.skipped[Skip.TOO_DEEP] += 1
            return False
        if self._spec is not None and path_matches(self._spec, key):
            self.skipped[Skip.EXCLUDED] += 1
            return False
        return True


def listed(store: ObjectStore) -> Iterator[list[Listed]]:
    """All objects of a tier but ours, page by page; the next page is asked for while one is worked on."""
    yield from _ahead(_until_area(store))


def _until_area(store: ObjectStore) -> Iterator[list[Listed]]:
    """Our own area can hold more objects than all else: it is skipped, not read."""
    for page in store.pages():
        ours = next((at for at, entry in enumerate(page) if entry.key.startswith(f"{AREA}/")), None)
        if ours is None:
            yield page
            continue
        yield page[:ours]
        yield from store.pages(start_after=_BEHIND_AREA)
        return


def _ahead(pages: Iterator[list[Listed]]) -> Iterator[list[Listed]]:
    with ThreadPoolExecutor(1, "archiver-listing") as thread:
        coming = thread.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = thread.submit(next, pages, None)
            yield page


@dataclass(slots=True)
class Part:
    """Objects of one directory, in the order of their names: all of them, or as many as came in one go.

    `whole` tells that the directory was listed to its end; of a part that is not, later parts follow.
    """

    directory: str
    objects: list[Listed] = field(default_factory=list)
    whole: bool = False


def by_directory(pages: Iterable[list[Listed]], sieve: Sieve, most: int, stop: threading.Event) -> Iterator[Part]:
    """Tracked objects by directory, at most `most` together. Nothing is `whole` any more once `stop` is set."""
    open_parts: list[Part] = []  # the directory being listed, below it those that it lies in and that came before
    for page in pages:
        if stop.is_set():
            return
        for entry in page:
            if not sieve.lets_through(entry.key):
                continue
            directory = entry.key.rpartition("/")[0]
            while open_parts and not _lies_in(directory, open_parts[-1].directory):
                yield _closed(open_parts.pop())
            if not open_parts or open_parts[-1].directory != directory:
                open_parts.append(Part(directory))
            part = open_parts[-1]
            if part.objects and part.objects[-1].key == entry.key:
                continue  # told twice
            part.objects.append(entry)
            if len(part.objects) >= most:
                yield part
                open_parts[-1] = Part(directory)
    while open_parts:
        yield _closed(open_parts.pop())


def _closed(part: Part) -> Part:
    part.whole = True
    return part


def _lies_in(directory: str, other: str) -> bool:
    return not other or directory == other or directory.startswith(f"{other}/")
