"""From recorded (or recalled) to released, for a batch of objects: one journal entry, one pack, many requests at once.

    look (HEAD, tags) -> placeholder -> journal -> [pack] -> hold -> write it over, or delete, if nobody wrote meanwhile
         -> commit

`arrow` marks the steps between which tests kill the process; whatever goes wrong in between is put right by `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO

from archiver import formats
from archiver.catalog.rows import FileRow, Holding, RecordRow, State, Version, held_name
from archiver.errors import (
    ArchiverError,
    NothingSaved,
    NotRecorded,
    ObjectArchived,
    ObjectChanged,
    ObjectLocked,
    ObjectMarked,
    Pinned,
    PlaceholderDamaged,
)
from archiver.formats import Envelope, Inspection, Kind, Metadata
from archiver.lifecycle import exact
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.keeper import Releasing
from archiver.lifecycle.outcome import Outcome, Result, attempt
from archiver.lifecycle.placeholder import placeholder_head, source_facts
from archiver.lifecycle.worth import Purse
from archiver.s3 import placing
from archiver.s3.address import held_number
from archiver.s3.caring import expire_object
from archiver.s3.ground import Body, Ground, version_of
from archiver.s3.journal import Entry, Intent
from archiver.s3.marks import Marks, kind_of, marked
from archiver.s3.objects import Dressing, ObjectInfo
from archiver.s3.original import reading
from archiver.s3.packs import Packed, alike
from archiver.s3.settling import settled


@dataclass(frozen=True, slots=True)
class _Ready:
    """An object that may be released: what stands there, what takes its place, and what it will wear."""

    item: Releasing
    record: RecordRow
    info: ObjectInfo
    wears: Dressing
    placeholder: bytes
    intent: Intent

    @property
    def row(self) -> FileRow:
        return self.item.row


def release(ground: Ground, batch: Sequence[Releasing]) -> Iterator[Outcome]:
    """Release recorded objects, and unmodified recalled ones; one outcome each. Raises nothing for one of them."""
    with ThreadPoolExecutor(ground.tier.settings.concurrency, "s3-release") as pool:
        looked = list(pool.map(partial(_looked, ground), batch))
        yield from (outcome for outcome in looked if isinstance(outcome, Outcome))
        ready = [one for one in looked if isinstance(one, _Ready)]
        if ready:
            for together in alike(ready, lambda one: one.wears) if ground.is_packed else [ready]:
                yield from _released(ground, together, pool)


def _looked(ground: Ground, item: Releasing) -> _Ready | Outcome:
    found: list[_Ready] = []

    def look() -> Outcome:
        make = _of_recalled if item.row.state is State.RECALLED else _of_original
        found.append(make(ground, item))
        return Outcome(path, "release", Result.DONE)

    path = ground.tier.url(item.row.path)
    outcome = attempt(path, "release", look, otherwise=Result.REFUSED)
    return found[0] if found else outcome


def _of_original(ground: Ground, item: Releasing) -> _Ready:
    """Promise 2, and the placeholder. Raises the error that names the reason."""
    row, site = item.row, ground.site
    if row.state is not State.RECORDED or row.record_id is None:
        raise NotRecorded(path=ground.tier.url(row.path), state=row.state.label)
    record = site.catalog.record(row.record_id)
    info = _may_be_touched(ground, row, record)
    if not info.readable:
        raise ObjectArchived(path=ground.tier.url(row.path), storage_class=info.storage_class)
    if kind_of(info):
        # Of an original in a bucket with versions, the version is what is held: nothing may take it for one of ours.
        raise ObjectMarked(path=ground.tier.url(row.path))
    inspection, packed = item.inspection, item.packed
    if inspection is None or (packed is None and exact.is_exact(record.scheme)):
        inspection, packed = _read_again(ground, row, record, inspection, packed)
    source = replace(source_facts(row, inspection, record.sha256), inode=held_number(row.path, row.inode))
    head = placeholder_head(record, source, inspection.metadata)
    if packed is not None:
        head = formats.placed_behind(head, packed)
    if len(head) >= row.size:
        raise NothingSaved(after=len(head), before=row.size)
    if (purse := Purse.of(ground.tier, site.settings)) is not None:
        purse.require_release(info, len(head), ground.tier.url(row.path))
    _read_back(ground, row, head, record)
    marks = Marks.of_original("placeholder", info, record.sha256, ground.held.reference(info))
    wears = marked(ground.dressing(info), marks)
    return _Ready(item, record, info, wears, head, _intent(ground, "release", item, info, record))


def _may_be_touched(ground: Ground, row: FileRow, record: RecordRow) -> ObjectInfo:
    """The object, unchanged. Raises ObjectChanged, ObjectLocked, Pinned, ConditionIgnored, ProfileUnknown."""
    placing.require_conditions(ground.store)
    info = ground.standing(row)
    if info.lock.reason:
        raise ObjectLocked(path=ground.tier.url(row.path), reason=info.lock.reason)
    if ground.site.catalog.is_pinned(row.tier_id, row.path):
        raise Pinned(path=ground.tier.url(row.path))
    ground.site.vault.require(record.profile)
    return info


def _read_again(
    ground: Ground, row: FileRow, record: RecordRow, inspection: Inspection | None, packed: bytes | None
) -> tuple[Inspection, bytes | None]:
    """What an object that was recorded some time ago is. Raises ObjectChanged where it is not what the record is of."""
    with reading(ground, row) as original:
        if original.sha256() != record.sha256:
            raise ObjectChanged(path=original.path)
        with original.reader() as file:
            inspection = inspection or formats.survey(file, ground.site.limits)
        if exact.is_exact(record.scheme):
            packed = packed or exact.pack(original, inspection, record.sha256)
    return inspection, packed


def _of_recalled(ground: Ground, item: Releasing) -> _Ready:
    """The placeholder of an image that nobody changed since it was generated. Raises ObjectChanged, ObjectLocked."""
    row = item.row
    assert row.record_id is not None  # the schema says so
    record = ground.site.catalog.record(row.record_id)
    info = _may_be_touched(ground, row, record)
    body = ground.body(row)
    envelope, metadata = _generated(body, record)
    head = placeholder_head(record, envelope.source, metadata)
    wears = body.wears("placeholder", envelope.source)
    return _Ready(item, record, info, wears, head, _intent(ground, "rerelease", item, info, record))


def _generated(body: Body, record: RecordRow) -> tuple[Envelope, Metadata]:
    envelope, metadata = body.carried(Kind.GENERATED)
    if envelope.record != record.payload:
        raise PlaceholderDamaged(path=body.path, problem="its record is not the catalog's")
    return envelope, metadata


def _read_back(ground: Ground, row: FileRow, head: bytes, record: RecordRow) -> None:
    """What was just made, as a stranger would read it. Raises PlaceholderDamaged."""
    path = ground.tier.url(row.path)
    envelope = formats.read_envelope(BytesIO(head))
    if envelope is None or envelope.kind is not Kind.PLACEHOLDER or envelope.record != record.payload:
        raise PlaceholderDamaged(path=path, problem="the placeholder just made cannot be read back")
    if exact.is_exact(record.scheme):
        exact.unpack(Body(path, head, None, Dressing()), envelope)


def _intent(ground: Ground, act: str, item: Releasing, info: ObjectInfo, record: RecordRow) -> Intent:
    row = item.row
    return Intent(
        act=act,
        key=row.path,
        etag=info.etag,
        record_id=record.id,
        held=held_name(held_number(row.path, row.inode), record.sha256) if act == "release" else "",
        size=row.size,
        rule=item.rule,
        expires_at=ground.site.grace_ends(),
    )


# -- the acts ----------------------------------------------------------------------------------------------------------


def _released(ground: Ground, ready: Sequence[_Ready], pool: ThreadPoolExecutor) -> Iterator[Outcome]:
    pack = ground.packs.new_key() if ground.is_packed else ""
    ready = [replace(one, intent=replace(one.intent, pack=pack)) for one in ready]
    try:
        entry = Entry(ground.store, [one.intent for one in ready])
    except ArchiverError as error:
        yield from _all_failed(ground, ready, error)
        return
    arrow("s3.release.journalled")
    try:
        if pack:
            ground.packs.write(pack, [_packed(one) for one in ready])
            arrow("s3.release.packed")
    except (ArchiverError, OSError) as error:
        entry.close()  # nothing was touched
        yield from _all_failed(ground, ready, error)
        return
    try:
        yield from pool.map(partial(_one_released, ground, entry), ready)
    finally:
        entry.close()


def _all_failed(ground: Ground, ready: Sequence[_Ready], error: Exception) -> Iterator[Outcome]:
    def fail() -> Outcome:
        raise error

    for one in ready:
        yield attempt(ground.tier.url(one.row.path), "release", fail)


def _packed(ready: _Ready) -> Packed:
    return Packed(ready.row.path, ready.placeholder, ready.wears, ready.info.modified_ns)


def _one_released(ground: Ground, entry: Entry, ready: _Ready) -> Outcome:
    act: Callable[[Ground, Entry, _Ready], Outcome] = _rereleased
    if ready.row.state is State.RECORDED:
        act = _put_away

    def do() -> Outcome:
        with settled(ground, entry, ready.intent):
            return act(ground, entry, ready)

    return attempt(ground.tier.url(ready.row.path), "release", do, otherwise=Result.REFUSED)


def _put_away(ground: Ground, entry: Entry, ready: _Ready) -> Outcome:
    row, intent, catalog = ready.row, ready.intent, ground.site.catalog
    ground.held.hold(ready.info, ready.wears, ready.record.sha256)
    arrow("s3.release.held")
    version = _put_in_place(ground, entry, ready)
    arrow("s3.release.placed")
    holding = Holding(intent.held, row.size, intent.expires_at)
    catalog.mark_released(row.id, intent.record_id, version=version, holding=holding, rule=intent.rule)
    arrow("s3.release.committed")
    if ground.site.settings.release.grace.total_seconds() == 0 and (held := catalog.holding_of(row)) is not None:
        expire_object(ground, held)
    return _done(ground, ready)


def _rereleased(ground: Ground, entry: Entry, ready: _Ready) -> Outcome:
    version = _put_in_place(ground, entry, ready)
    arrow("s3.rerelease.placed")
    ground.site.catalog.mark_rereleased(ready.row.id, version=version, rule=ready.intent.rule)
    arrow("s3.rerelease.committed")
    return _done(ground, ready)


def _put_in_place(ground: Ground, entry: Entry, ready: _Ready) -> Version:
    """The placeholder where the object stands, or nothing where it is in a pack; what the row has of it then."""
    entry.hold_on()
    if ground.is_packed:
        placing.remove(ground.store, ready.info)
        return ready.row.version
    wears = replace(ready.wears, storage_class=ground.tier.settings.placeholder_class)
    return version_of(placing.replace(ground.store, ready.info, ready.placeholder, wears))


def _done(ground: Ground, ready: _Ready) -> Outcome:
    return Outcome(
        ground.tier.url(ready.row.path),
        "release",
        Result.DONE,
        bytes_before=ready.row.size,
        bytes_after=len(ready.placeholder),
        record_bytes=len(ready.record.payload),
        fidelity=ready.item.fidelity,
    )
