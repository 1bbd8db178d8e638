"""What all acts on the objects of one bucket share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from archiver import formats
from archiver.catalog.rows import FileRow, Version
from archiver.errors import NothingHeld, ObjectChanged, ObjectMissing, PlaceholderDamaged
from archiver.formats import Envelope, Kind, Metadata, SourceFacts
from archiver.s3.address import ObjectUrl
from archiver.s3.held import HeldOriginals
from archiver.s3.journal import Intent
from archiver.s3.marks import MarkedKind, from_facts, kind_of, marked, remarked
from archiver.s3.objects import Dressing, ObjectInfo
from archiver.s3.packs import Packs
from archiver.s3.store import ObjectStore
from archiver.s3.tier import S3Tier

if TYPE_CHECKING:
    from archiver.lifecycle.site import Site

HEAD = 64 << 10  # bytes: where the envelope is in what archiver wrote, and in what tools made of it


@dataclass(frozen=True, slots=True)
class Body:
    """A placeholder or a generated image, whole, and where it stands: `info` None is in a pack."""

    path: ObjectUrl
    data: bytes
    info: ObjectInfo | None
    dressing: Dressing

    def reader(self) -> BinaryIO:
        """Its bytes from the first one."""
        return BytesIO(self.data)

    def carried(self, *kinds: Kind) -> tuple[Envelope, Metadata]:
        """What it carries. Raises PlaceholderDamaged, EnvelopeDamaged."""
        envelope = formats.read_envelope(self.reader())
        if envelope is None or envelope.kind not in kinds:
            raise PlaceholderDamaged(path=self.path, problem=f"it carries no {' or '.join(kinds)} record")
        if envelope.kind is Kind.GENERATED and envelope.source.length != len(self.data):
            raise PlaceholderDamaged(path=self.path, problem="its length is not that of the original it stands for")
        return envelope, formats.read_metadata(self.reader())

    def wears(self, kind: MarkedKind, source: SourceFacts) -> Dressing:
        """What is written in its place wears, as another kind: all that the original wore, and the marks."""
        if self.info is None or kind_of(self.info):
            return remarked(self.dressing, kind)
        return marked(self.dressing, from_facts(kind, source, self.info.etag))  # a tool copied it without its metadata


class Ground:
    """The tier, its store, and what of ours is kept in it. For any number of threads."""

    def __init__(self, site: Site, tier: S3Tier) -> None:
        self.site = site
        self.tier = tier
        self.tier_id = site.tier_ids[tier.name]

    @property
    def store(self) -> ObjectStore:
        return self.tier.store

    @cached_property
    def held(self) -> HeldOriginals:
        return HeldOriginals(self.store)

    @cached_property
    def packs(self) -> Packs:
        return Packs(self.store)

    @property
    def is_packed(self) -> bool:
        """Whether records are kept many per object, and released objects not at all."""
        return self.tier.settings.records == "packed"

    # -- what stands there ---------------------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo | None:
        """What stands at a key; None for nothing."""
        try:
            return self.store.head(key)
        except ObjectMissing:
            return None

    def standing(self, row: FileRow) -> ObjectInfo:
        """The object of a row. Raises ObjectChanged where it is another version, ObjectMissing."""
        found = self.store.head(row.path)
        if not is_version(found, row):
            raise ObjectChanged(path=self.tier.url(row.path))
        return found

    def dressing(self, info: ObjectInfo) -> Dressing:
        """All that an object wears."""
        return info.dressing(self.store.tags(info.key))

    def body(self, row: FileRow) -> Body:
        """What stands for a released or recalled file, in place or in a pack.

        Raises ObjectChanged, ObjectMissing, PlaceholderDamaged.
        """
        path = self.tier.url(row.path)
        try:
            info, stream = self.store.get(row.path)
        except ObjectMissing:
            record = self.site.catalog.record(row.record_id).payload if row.record_id is not None else None
            packed = self.packs.find(row.path, record)
            if packed is None:
                raise
            return Body(path, packed.image, None, packed.dressing)
        with stream:
            if not is_version(info, row):
                raise ObjectChanged(path=path)
            return Body(path, stream.read(), info, self.dressing(info))

    def let_go(self, intent: Intent) -> None:
        """Delete the held original of an act that put it back, where one still is held."""
        if not intent.held:
            return
        sha256 = self.site.catalog.record(intent.record_id).sha256
        with suppress(NothingHeld):
            self.held.put_back(self.held.find(intent.key, int(intent.held.partition("-")[0], 16), sha256))

    def is_ours(self, info: ObjectInfo) -> bool:
        """Whether an object is a placeholder or a generated image that nobody edited, whatever its metadata says.

        Raises EnvelopeDamaged, ObjectChanged.
        """
        _, stream = self.store.get(info.key, if_match=info.etag)
        with stream:
            found = formats.look(BytesIO(stream.read()))
        return found not in (formats.Found.ORDINARY, formats.Found.EDITED)


def is_version(info: ObjectInfo, row: FileRow) -> bool:
    """Whether an object is the one that a row tells of."""
    return (info.size, info.inode) == (row.size, row.inode)


def version_of(info: ObjectInfo) -> Version:
    """What a row has of an object."""
    return Version(info.size, info.modified_ns, info.inode)
