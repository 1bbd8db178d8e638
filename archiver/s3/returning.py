"""Back from released: the generated image, the exact bytes of a lossless record, or the held original."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from archiver.catalog.rows import FileRow, HoldingRow
from archiver.codec.record import Record
from archiver.decoder.engine import Generated
from archiver.errors import FileModified, NothingHeld, PlaceholderDamaged
from archiver.formats import Kind
from archiver.lifecycle import exact
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.fill import render
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.placeholder import Carried
from archiver.lifecycle.undo import new_file, require_current
from archiver.s3 import placing
from archiver.s3.address import ObjectUrl
from archiver.s3.ground import Body, Ground, is_version, version_of
from archiver.s3.journal import Entry, Intent
from archiver.s3.marks import kind_of, unmarked
from archiver.s3.objects import Dressing, ObjectInfo
from archiver.s3.settling import journalled


@dataclass(frozen=True, slots=True)
class ObjectPlaceholder:
    """A released object: its placeholder, in place or in a pack, and what that says of itself."""

    ground: Ground
    row: FileRow
    body: Body
    carried: Carried

    @property
    def path(self) -> ObjectUrl:
        return self.body.path

    def fill(self, generated: Generated) -> Outcome:
        """From released to recalled. Raises ImageRefused, ObjectChanged, StateConflict, BucketUnreachable."""
        ground, row = self.ground, self.row
        image = render(ground.site, self.carried, generated)
        with journalled(ground, self._intent("recall")) as entry:
            arrow("s3.recall.journalled")
            info = self._put(entry, image, self.body.wears("generated", self.carried.envelope.source))
            arrow("s3.recall.placed")
            ground.site.catalog.mark_recalled(row.id, sha256(image).digest(), version=version_of(info))
            arrow("s3.recall.committed")
        return self._done(len(image))

    def restore(self) -> Outcome:
        """From released to recorded: the original's own bytes. Raises as `fill`, and what `exact.unpack` raises."""
        ground, row = self.ground, self.row
        original = exact.unpack(self.body, self.carried.envelope)
        with journalled(ground, self._intent("restore")) as entry:
            arrow("s3.restore.journalled")
            info = self._put(entry, original, unmarked(self.body.dressing))
            arrow("s3.restore.placed")
            ground.site.catalog.mark_restored(row.id, version=version_of(info))
            arrow("s3.restore.committed")
            ground.let_go(self._intent("restore"))
        return self._done(len(original))

    def _put(self, entry: Entry, data: bytes, wears: Dressing) -> ObjectInfo:
        entry.hold_on()
        if self.body.info is None:
            return placing.place(self.ground.store, self.row.path, data, wears)
        return placing.replace(self.ground.store, self.body.info, data, wears)

    def _intent(self, act: str) -> Intent:
        assert self.row.record_id is not None  # `recalling` compared it
        held = self.ground.site.catalog.holding_of(self.row)
        etag = self.body.info.etag if self.body.info is not None else ""
        length = self.carried.envelope.source.length
        return Intent(act, self.row.path, etag, self.row.record_id, held=held.name if held else "", size=length)

    def _done(self, after: int) -> Outcome:
        before, size = len(self.body.data), len(self.carried.envelope.record)
        return Outcome(self.path, "recall", Result.DONE, bytes_before=before, bytes_after=after, record_bytes=size)


def recalling(ground: Ground, row: FileRow) -> ObjectPlaceholder:
    """A released object's placeholder, compared with the catalog. Raises ObjectChanged, PlaceholderDamaged."""
    body = ground.body(row)
    envelope, metadata = body.carried(Kind.PLACEHOLDER)
    if row.record_id is None or ground.site.catalog.record(row.record_id).payload != envelope.record:
        raise PlaceholderDamaged(path=body.path, problem="its record is not the catalog's")
    return ObjectPlaceholder(ground, row, body, Carried(envelope, metadata, Record.from_bytes(envelope.record)))


# -- the original ------------------------------------------------------------------------------------------------------


def undo_object(ground: Ground, row: FileRow, to: Path | None) -> Outcome:
    """Give one held original back, or copy it into a folder. Raises NothingHeld, HeldOriginalDamaged, ObjectChanged."""
    path = ground.tier.url(row.path)
    held = ground.site.catalog.holding_for(row.id)
    if held is None:
        raise NothingHeld(path=path)
    require_current(row, held, to, path)
    digest = ground.site.catalog.record(held.record_id).sha256
    found = ground.held.find(row.path, int(held.name.partition("-")[0], 16), digest)
    with ground.held.opened(found, row.path, digest) as file:
        arrow("s3.undo.verified")
        if to is not None:
            _copy_out(file, to / row.name, found.modified_ns)
            return Outcome(path, "undo", Result.DONE, f"copied to {to / row.name}", bytes_after=held.size)
        _put_back(ground, row, held, found, file)
    return Outcome(path, "undo", Result.DONE, bytes_after=held.size)


def _copy_out(file: BinaryIO, target: Path, modified_ns: int) -> None:
    """Copy a held original, never over another file. Raises OSError."""
    with new_file(target, 0o666) as copy:  # a bucket knows no modes
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.utime(copy.fileno(), ns=(modified_ns, modified_ns))


def _put_back(ground: Ground, row: FileRow, held: HoldingRow, found: ObjectInfo, file: BinaryIO) -> None:
    standing = ground.head(row.path)
    if standing is not None and not (is_version(standing, row) and ground.is_ours(standing)):
        raise FileModified(path=ground.tier.url(row.path), state=row.state.label)
    wears = ground.held.dressing(found)
    if standing is not None and kind_of(standing):
        # Its owner may have given it other tags, or another type, since it was released.
        wears = replace(unmarked(ground.dressing(standing)), storage_class=wears.storage_class)
    etag = standing.etag if standing is not None else ""
    intent = Intent("undo", row.path, etag, held.record_id, held=held.name, size=held.size)
    with journalled(ground, intent) as entry:
        arrow("s3.undo.journalled")
        entry.hold_on()
        if standing is None:
            info = placing.place(ground.store, row.path, file, wears)
        else:
            info = placing.replace(ground.store, standing, file, wears)
        arrow("s3.undo.placed")
        ground.site.catalog.mark_undone(row.id, version=version_of(info))
        arrow("s3.undo.committed")
        ground.held.put_back(found)
        arrow("s3.undo.deleted")
