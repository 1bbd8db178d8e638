"""What stands for a key that a reader asks for: an object as it is, a placeholder, or an entry of a pack. Blocks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from io import BytesIO

from archiver import formats
from archiver.catalog import Catalog
from archiver.catalog.rows import State
from archiver.codec.record import Record, Scheme
from archiver.errors import ObjectMissing
from archiver.formats import BLOCK
from archiver.s3.objects import ObjectInfo
from archiver.s3.packs import Packed, Packs
from archiver.s3.shown import Shown
from archiver.s3.tier import S3Tier

_LARGEST_PLACEHOLDER = 2 * 10**9  # bytes; a lossless one is nearly as large as its original
_REMEMBERED = 100_000  # placeholders of which it is known whether they are lossless


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader is shown, and where its bytes are: `placeholder` reads what they are generated from, else they are
    those of the object. `tag` tells this state of the key from any other.
    """

    shown: Shown
    tag: str
    placeholder: Callable[[], bytes] | None = None


class Finder:
    """Looks keys up in buckets, and in packs where an object is gone; for any number of threads."""

    def __init__(self, catalog: Catalog | None) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._packs: dict[str, Packs] = {}
        self._exact: OrderedDict[str, bool] = OrderedDict()  # by tag

    def find(self, tier: S3Tier, key: str) -> Found:
        """Raises ObjectMissing, EnvelopeDamaged, RecordCorrupt, ValueError and KeyError (marks that make no sense)."""
        try:
            info = tier.store.head(key)
        except ObjectMissing:
            packed = self._packed(tier, key)
            if packed is None:
                raise
            return self._of_packed(tier, key, packed)
        shown = Shown.of(info)
        if not shown.is_released:
            return Found(shown, info.etag)
        head = partial(tier.store.read_head, key, BLOCK, if_match=info.etag)
        whole = partial(tier.store.read, key, limit=_LARGEST_PLACEHOLDER, if_match=info.etag)
        exact = self._is_exact(f"{tier.url(key)} {info.etag}", head)
        return Found(replace(shown, is_generated=not exact), info.etag, whole)

    def _of_packed(self, tier: S3Tier, key: str, packed: Packed) -> Found:
        """The entry of a pack tells the same as an object would."""
        wears = packed.dressing
        tag = sha256(packed.image).hexdigest()
        shown = Shown.of(ObjectInfo(key, tag, len(packed.image), 0, headers=wears.headers, metadata=wears.metadata))
        exact = self._is_exact(f"{tier.url(key)} {tag}", lambda: packed.image)
        return Found(replace(shown, is_generated=not exact), tag, lambda: packed.image)

    def _packed(self, tier: S3Tier, key: str) -> Packed | None:
        if tier.settings.records != "packed":
            return None
        record: bytes | None = None
        if self._catalog is not None:
            # An object that its owner deleted may still be in a pack: only the catalog knows.
            tier_id = next((row.id for row in self._catalog.tiers() if row.name == tier.name), None)
            row = None if tier_id is None else self._catalog.find(tier_id, key)
            if row is None or row.state is not State.RELEASED or row.record_id is None:
                return None
            record = self._catalog.record(row.record_id).payload
        with self._lock:
            packs = self._packs.setdefault(tier.name, Packs(tier.store))
        return packs.find(key, record)

    def _is_exact(self, tag: str, head: Callable[[], bytes]) -> bool:
        """Whether a placeholder keeps the original without loss: then what readers get is not generated."""
        with self._lock:
            if tag in self._exact:
                self._exact.move_to_end(tag)
                return self._exact[tag]
        envelope = formats.read_envelope(BytesIO(head()))
        exact = envelope is not None and Record.from_bytes(envelope.record).scheme is Scheme.LOSSLESS
        with self._lock:
            self._exact[tag] = exact
            while len(self._exact) > _REMEMBERED:
                self._exact.popitem(last=False)
        return exact
