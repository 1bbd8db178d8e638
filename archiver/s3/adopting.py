"""Objects that carry their own record but have no row that says so: copied, restored from a backup, or the catalog was
lost. What is in a pack and has no object any more is found by the pack's own directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import islice
from threading import Event

from archiver import formats
from archiver.catalog.rows import DirectoryChange, FileRow, Found, Holding, State, held_name
from archiver.errors import ArchiverError, NothingHeld, PlaceholderDamaged
from archiver.formats import Envelope, Kind, Metadata
from archiver.lifecycle.adopt import adopted
from archiver.lifecycle.outcome import Outcome, Result, attempt, failed
from archiver.lifecycle.placeholder import require_within
from archiver.lifecycle.rebuild import ADOPTABLE
from archiver.s3.ground import HEAD, Body, Ground
from archiver.s3.held import owner_of
from archiver.s3.marks import kind_of
from archiver.s3.packs import Packed

_TOGETHER = 256  # objects that are looked at before the next page is asked for


def adopt_object(ground: Ground, row: FileRow) -> Outcome:
    """Take in a placeholder as released, a generated image as recalled, with the record that it carries.

    SKIPPED where somebody edited the image since. Raises PlaceholderDamaged, EnvelopeDamaged, RecordCorrupt,
    ObjectChanged, ObjectMissing.
    """
    path = ground.tier.url(row.path)
    found = ground.standing(row)
    _, stream = ground.store.get(row.path, if_match=found.etag)
    with stream:
        body = Body(path, stream.read(), found, ground.dressing(found))
    looks = formats.look(body.reader())
    if looks is formats.Found.HEAD:
        raise PlaceholderDamaged(path=path, problem="only the first block of a generated image is left")
    if looks is formats.Found.EDITED:
        return Outcome(path, "adopt", Result.SKIPPED, "edited since it was generated: a new original")
    envelope, metadata = body.carried(*Kind)
    placeholder = envelope.kind is Kind.PLACEHOLDER
    return _taken_in(ground, row, envelope, metadata, None if placeholder else sha256(body.data).digest())


def _taken_in(
    ground: Ground, row: FileRow, envelope: Envelope, metadata: Metadata, generated_sha256: bytes | None
) -> Outcome:
    require_within(ground.site.limits, envelope, ground.tier.url(row.path))
    holding = _held(ground, row.path, envelope)
    ground.site.catalog.adopt(adopted(row, envelope, metadata, generated_sha256, holding))
    return Outcome(ground.tier.url(row.path), "adopt", Result.DONE, record_bytes=len(envelope.record))


def _held(ground: Ground, key: str, envelope: Envelope) -> Holding | None:
    source = envelope.source
    try:
        found = ground.held.find(key, source.inode, source.sha256)
    except NothingHeld:
        return None
    if (owner := owner_of(found) or key) != key and ground.head(owner) is not None:
        return None  # it is a copy of a placeholder: the original stays with that
    return Holding(held_name(source.inode, source.sha256), found.size, ground.site.grace_ends())


# -- all of them -------------------------------------------------------------------------------------------------------


def rebuild_objects(ground: Ground, stop: Event | None) -> Iterator[Outcome]:
    """Look at each resident object of a bucket just scanned, then at every pack, and adopt what carries a record."""
    stop = stop or Event()
    rows = ground.site.catalog.stream_files(ground.tier_id, ADOPTABLE)
    with ThreadPoolExecutor(ground.tier.settings.concurrency, "s3-rebuild") as pool:
        while not stop.is_set() and (page := list(islice(rows, _TOGETHER))):
            looked = pool.map(partial(_looked_at, ground), page)
            yield from (outcome for outcome in looked if outcome.result is not Result.SKIPPED)
    for pack in ground.packs.all():
        if stop.is_set():
            return
        try:
            yield from _of_pack(ground, pack)
        except ArchiverError as error:
            yield failed(ground.tier.url(pack), "adopt", error)


def _looked_at(ground: Ground, row: FileRow) -> Outcome:
    path = ground.tier.url(row.path)

    def look() -> Outcome:
        info, stream = ground.store.get(row.path, range=(0, HEAD - 1))
        with stream:
            carries = bool(kind_of(info)) or formats.read_envelope(BytesIO(stream.read())) is not None
        return adopt_object(ground, row) if carries else Outcome(path, "adopt", Result.SKIPPED)

    return attempt(path, "adopt", look)


def _of_pack(ground: Ground, pack: str) -> Iterator[Outcome]:
    """Those of its entries that no object stands for and that the catalog does not know as released."""
    keys = [key for key in ground.packs.keys(pack) if _is_lost(ground, key)]
    for packed in ground.packs.read(pack, keys):
        yield attempt(ground.tier.url(packed.key), "adopt", partial(_adopt_packed, ground, packed))


def _is_lost(ground: Ground, key: str) -> bool:
    row = ground.site.catalog.find(ground.tier_id, key)
    return row is None or row.state is State.GONE


def _adopt_packed(ground: Ground, packed: Packed) -> Outcome:
    envelope, metadata = Body(ground.tier.url(packed.key), packed.image, None, packed.dressing).carried(
        Kind.PLACEHOLDER
    )
    source = envelope.source
    directory, _, name = packed.key.rpartition("/")
    seen = Found(name.encode(), source.length, source.mtime_ns, source.inode, source.mtime_ns // 1_000_000_000)
    ground.site.catalog.apply_changes(ground.tier_id, [DirectoryChange(directory.encode(), new=[seen])])
    row = ground.site.catalog.find(ground.tier_id, packed.key)
    assert row is not None  # just made
    if row.state is State.RELEASED:
        return Outcome(ground.tier.url(packed.key), "adopt", Result.DONE, "it was gone, and is back")
    return _taken_in(ground, row, envelope, metadata, None)
