"""What a listing seems to say of objects that the catalog knows, looked at again before it is believed.

A listing (and an inventory report more so) is old the moment it is read, and archiver itself may be at work on an
object. So every object that seems changed or missing is asked for by its name first; then the journal is read; then the
catalog once more. An act of ours that made the difference began before the question and is in the journal until the
catalog tells of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from archiver.catalog import Catalog
from archiver.catalog.rows import Found, Known, State
from archiver.errors import ArchiverError, ObjectMissing, TierUnreachable
from archiver.s3.marks import kind_of
from archiver.s3.objects import ObjectInfo
from archiver.s3.store import ObjectStore
from archiver.s3.tier import JOURNAL, S3Tier

_LONGEST_ENTRY = 64 << 20

Warn = Callable[[str, str], None]
Answer = ObjectInfo | None | ArchiverError
"""What stands at a key, None for nothing, or why that cannot be told."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A file that the catalog has, under the key it has in the bucket, and seems changed or missing."""

    known: Known
    key: str


@dataclass(slots=True)
class Certain:
    """What became of doubts: files that really changed, with what stands there, and files that are really missing."""

    changed: list[tuple[int, Found]] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)


class Inquiry:
    """Settles doubts about objects of one tier; a context manager that holds the threads it asks with."""

    def __init__(self, catalog: Catalog, tier: S3Tier, warn: Warn) -> None:
        self._catalog, self._tier, self._warn = catalog, tier, warn
        self._threads = ThreadPoolExecutor(tier.settings.concurrency, "archiver-inquiry")

    def __enter__(self) -> Inquiry:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def settle(self, doubts: Sequence[Doubt], answers: Sequence[Answer] | None = None) -> Certain:
        """Ask for every doubtful object, unless the `answers` are known already, and believe what is left.

        Raises BucketUnreachable, CatalogUnavailable. An object that the server does not let us see stays as it is.
        """
        if answers is None:
            answers = self.heads([doubt.key for doubt in doubts])
        certain = Certain()
        open_ones = [pair for pair in zip(doubts, answers, strict=True) if self._matters(*pair)]
        if not open_ones:
            return certain
        under_way = keys_under_way(self._tier.store)
        now = self._catalog.files_known([doubt.known.id for doubt, _ in open_ones])
        for doubt, answer in open_ones:
            if doubt.key in under_way or now.get(doubt.known.id) != doubt.known:
                continue  # somebody is at work on it: the next scan looks again
            if not isinstance(answer, ObjectInfo):
                certain.missing.append(doubt.known.id)
            else:
                certain.changed.append((doubt.known.id, as_found(answer)))
        return certain

    def _matters(self, doubt: Doubt, answer: Answer) -> bool:
        """Whether the catalog would have to change."""
        if isinstance(answer, ArchiverError):
            self._warn(str(self._tier.url(doubt.key)), answer.message)
            return False
        if answer is None:
            return self.should_be_there(doubt.known)
        if differs(doubt.known, as_found(answer)):
            return True
        # Its record is packed, and its owner put the very original there again: that is no version of the record's.
        return not self.should_be_there(doubt.known) and not kind_of(answer)

    def head(self, key: str) -> ObjectInfo | ArchiverError | None:
        """What stands at a key, None for nothing, or why that cannot be told. Raises TierUnreachable."""
        try:
            return self._tier.store.head(key)
        except ObjectMissing:
            return None
        except TierUnreachable:
            raise
        except ArchiverError as error:
            return error

    def heads(self, keys: Sequence[str]) -> list[ObjectInfo | ArchiverError | None]:
        """`head` of many, in their order."""
        return list(self._threads.map(self.head, keys))

    def should_be_there(self, known: Known) -> bool:
        """Whether the catalog takes it that there is an object: packed, a released one has none."""
        packed = self._tier.settings.records == "packed"
        return known.state != State.GONE and not (packed and known.state == State.RELEASED)


def as_found(info: ObjectInfo) -> Found:
    """An object as the catalog is told of it. It was last used when it was written: servers tell nothing of reads."""
    name = info.key.rpartition("/")[2].encode()
    return Found(name, info.size, info.modified_ns, info.inode, info.modified_ns // 1_000_000_000)


def differs(known: Known, found: Found) -> bool:
    """Whether what stands there is another object than the catalog has.

    The same bytes written once more are no other image: their time is taken over where no record is concerned.
    """
    if known.state == State.GONE or (known.size, known.inode) != (found.size, found.inode):
        return True
    return known.mtime_ns != found.mtime_ns and known.state == State.RESIDENT


def keys_under_way(store: ObjectStore) -> frozenset[str]:
    """Keys of the objects that an act of some process is changing right now. Raises BucketUnreachable."""
    keys: set[str] = set()
    for entry in store.list(JOURNAL):
        try:
            text = store.read(entry.key, limit=_LONGEST_ENTRY)
        except ObjectMissing:
            continue  # struck meanwhile: the catalog tells of those
        keys.update(act["key"] for act in json.loads(text)["acts"])
    return frozenset(keys)
