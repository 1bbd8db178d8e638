"""Looking after what is kept of a bucket: proofs, the end of grace periods, and what nobody needs any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from archiver.catalog.rows import FileRow, HoldingRow, State
from archiver.codec.record import Record
from archiver.errors import HeldOriginalDamaged, NothingHeld, PlaceholderDamaged
from archiver.formats import Kind
from archiver.lifecycle import exact
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.outcome import Outcome, Result, attempt
from archiver.lifecycle.ownership import require_own
from archiver.lifecycle.pace import Pace
from archiver.s3.ground import Ground
from archiver.s3.packs import alike

_YOUNG = 24 * 3600  # seconds: acts that have entries in so young a pack may still be under way
_OFTEN = 24 * 3600  # seconds
_EVER = 1 << 62  # seconds since 1970


def verify_object(ground: Ground, row: FileRow, payload: bytes, *, decode: bool, pace: Pace) -> None:
    """That what stands for an object carries its record, and that its held original is whole. Raises ArchiverError."""
    if row.state is not State.RECORDED:
        pace.took(check_carried(ground, row, payload, decode=decode))
    held = ground.site.catalog.holding_for(row.id)
    if held is None:
        return
    sha256 = ground.site.catalog.record(held.record_id).sha256
    found = ground.held.find(row.path, _inode(held), sha256)
    with ground.held.opened(found, row.path, sha256):
        pace.took(found.size)


def check_carried(ground: Ground, row: FileRow, payload: bytes, *, decode: bool) -> int:
    """That a placeholder (in place or in a pack) or recalled image carries this very record; the bytes read for that.

    With `decode`, that an original kept without loss comes back. Raises PlaceholderDamaged, EnvelopeDamaged,
    ObjectChanged, ObjectMissing, TranscoderNotInstalled.
    """
    released = row.state is State.RELEASED
    body = ground.body(row)
    envelope, _ = body.carried(Kind.PLACEHOLDER if released else Kind.GENERATED)
    if envelope.record != payload:
        raise PlaceholderDamaged(path=body.path, problem="its record is not the catalog's")
    if released and exact.is_exact(Record.from_bytes(payload).scheme):
        exact.check(body, envelope, decode=decode)
    return len(body.data)


def expire_object(ground: Ground, held: HoldingRow) -> Outcome:
    """Delete one held original now, unless it is the last copy of something. Raises ArchiverError."""
    catalog = ground.site.catalog
    row = catalog.file(held.file_id)
    path = ground.tier.url(row.path)
    now = catalog.holding_for(held.file_id)  # the newest: of what was written over, an older one may be held, too
    if now != held and (now is None or now.record_id <= held.record_id):
        return Outcome(path, "expire", Result.SKIPPED, "it was given back, or is held anew, since it was listed")
    record = catalog.record(held.record_id)
    ground.site.vault.require(record.profile)
    if row.state in (State.RELEASED, State.RECALLED) and row.record_id == held.record_id:  # else it was written over
        check_carried(ground, row, record.payload, decode=True)
    try:
        found = ground.held.find(row.path, _inode(held), record.sha256)
    except NothingHeld:
        catalog.mark_expired(held)  # a crash came between the deletion and its note
        return Outcome(path, "expire", Result.DONE, "was deleted already")
    if found.size != held.size:
        raise HeldOriginalDamaged(path=path, held=ground.tier.url(found.key))
    ground.held.delete(found)
    arrow("s3.expire.deleted")
    catalog.mark_expired(held)
    arrow("s3.expire.committed")
    return Outcome(path, "expire", Result.DONE, bytes_before=found.size)


def tidy(ground: Ground) -> Iterator[Outcome]:
    """Delete copies that acts made which were taken back, and write packs anew of which little is needed any more.

    Looks at all that is held and packed, so it does nothing but once a day.
    """
    catalog, setting = ground.site.catalog, f"s3.tidied.{ground.tier.name}"
    if not catalog.tier(ground.tier_id).identity or time.time() - float(catalog.setting(setting) or 0) < _OFTEN:
        return  # never scanned, or tidied today
    require_own(ground.site.catalog, ground.tier)
    listed = frozenset(held.name for held in catalog.holding_due(_EVER))
    for copy in ground.held.unlisted(listed):
        if ground.held.is_whole_elsewhere(copy) and ground.held.drop(copy):
            yield Outcome(ground.tier.url(copy.key), "expire", Result.DONE, "its original is in place")
    ground.packs.look_again()
    for pack in ground.packs.all(older_than=_YOUNG):
        outcome = attempt(ground.tier.url(pack), "expire", partial(compact, ground, pack))
        if outcome.result is not Result.SKIPPED:
            yield outcome
    catalog.set_setting(setting, str(time.time()))


def compact(ground: Ground, pack: str) -> Outcome:
    """Write what is needed of a pack into a new one and delete it, where that is less than half; else SKIPPED."""
    path = ground.tier.url(pack)
    keys = ground.packs.keys(pack)
    needed = [key for key in keys if _is_needed(ground, pack, key)]
    if len(needed) * 2 >= len(keys):
        return Outcome(path, "expire", Result.SKIPPED)
    for kept in alike(ground.packs.read(pack, needed), lambda packed: packed.dressing):
        ground.packs.write(ground.packs.new_key(), kept)
        arrow("s3.compact.written")
    ground.packs.delete(pack)
    return Outcome(path, "expire", Result.DONE, f"{len(keys) - len(needed)} of its {len(keys)} records are in no use")


def _is_needed(ground: Ground, pack: str, key: str) -> bool:
    """What the catalog does not know is not absent: it may have been lost."""
    if not ground.packs.is_newest(pack, key):
        return False
    row = ground.site.catalog.find(ground.tier_id, key)
    return row is None or row.state in (State.RELEASED, State.GONE)


def _inode(held: HoldingRow) -> int:
    return int(held.name.partition("-")[0], 16)
