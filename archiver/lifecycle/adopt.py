"""A file that carries its own record but has no row that says so: moved, copied, restored from a backup, or the catalog
was lost.
"""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO

from archiver import formats
from archiver.catalog.rows import Adopted, FileRow, Holding, NewRecord, State, held_name
from archiver.codec import schemes
from archiver.codec.record import Record
from archiver.errors import EnvelopeDamaged, FileModified, ImageRefused
from archiver.lifecycle import reconcile
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.placeholder import read_carried, require_unwritten, require_within
from archiver.lifecycle.rerelease import put_placeholder_back
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import scan_directory

_START_OF_SCAN, _END_OF_JPEG = 0xDA, b"\xff\xd9"


def adopt(site: Site, tier: LocalTier, row: FileRow) -> Outcome:
    """Take a placeholder into the catalog as released, a generated image as recalled, with the record that it carries.

    Its held original is found again by name if it is still there. A generated image of which only the first block is
    left becomes a placeholder again. Raises FileModified for one that somebody edited or wrote into since (it is a new
    original), PlaceholderDamaged, RecordCorrupt, OSError.
    """
    with hold(tier, row) as subject, subject.reader() as file:
        subject.require_unchanged()
        found = formats.look(file)
    if found is formats.Found.EDITED:
        raise FileModified(path=tier.root / row.path, state=State.RECALLED.label)
    if found is formats.Found.HEAD:
        _put_placeholder_back(site, tier, row)
    with hold(tier, row) as subject:
        subject.require_unchanged()
        envelope, metadata = read_carried(subject, *formats.Kind)
        require_within(site.limits, envelope, subject.path)
        if row.state is State.SUPERSEDED:
            require_unwritten(subject, envelope)
        generated = None if envelope.kind is formats.Kind.PLACEHOLDER else fileops.sha256_of(subject.fd)
        holding = _held(site, subject, envelope)
        if holding is not None:
            _note_moved(site, subject, envelope.source)
        what = adopted(row, envelope, metadata, generated, holding)
        if generated is None:
            site.forget(subject.fd)  # it may have been copied over a file whose readers are let through
        site.catalog.adopt(replace(what, behind=reconcile.behind_block(subject.stat) if generated is None else 0))
        return Outcome(subject.path, "adopt", Result.DONE, record_bytes=len(envelope.record))


def adopted(
    row: FileRow,
    envelope: formats.Envelope,
    metadata: formats.Metadata,
    generated_sha256: bytes | None,
    holding: Holding | None,
) -> Adopted:
    """What the catalog is told of a file that carries `envelope`: released, or recalled where its bytes have a hash.

    Raises RecordCorrupt, RecordVersionUnknown.
    """
    record, source = Record.from_bytes(envelope.record), envelope.source
    return Adopted(
        NewRecord(
            file_id=row.id,
            expected=row.version,
            payload=envelope.record,
            sha256=source.sha256,
            profile=record.profile,
            scheme=record.scheme,
            format=source.format,
            width=source.width,
            height=source.height,
            metadata=metadata.to_bytes() if metadata else None,
        ),
        state=State.RELEASED if generated_sha256 is None else State.RECALLED,
        recalled_sha256=generated_sha256,
        holding=holding,
    )


def _put_placeholder_back(site: Site, tier: LocalTier, row: FileRow) -> None:
    """Make the placeholder of such a block; without the metadata where they stood behind it."""
    site.require_noticing()
    with hold(tier, row, os.O_RDWR) as subject:
        subject.require_unchanged()
        with subject.reader() as file:
            block = file.read(formats.BLOCK)
        envelope = formats.read_envelope(BytesIO(block))
        assert envelope is not None  # it was looked at
        metadata = _metadata_within(block, envelope.source.format)
        placeholder = replace(envelope, kind=formats.Kind.PLACEHOLDER)
        preview = schemes.preview(Record.from_bytes(envelope.record))
        head = formats.build_placeholder(placeholder, metadata, preview)
        with fileops.write_lease(subject.fd, subject.path):
            put_placeholder_back(subject, head)
            site.forget(subject.fd)  # before anybody can open it


def _metadata_within(block: bytes, format: formats.Format) -> formats.Metadata:
    """What whole segments of it hold. Only JPEG has all its metadata before the picture."""
    at = 2
    while at + 4 <= len(block) and block[at + 1] != _START_OF_SCAN:
        end = at + 2 + int.from_bytes(block[at + 2 : at + 4], "big")
        if end > len(block):
            break
        at = end
    try:
        return formats.read_metadata(BytesIO(block[:at] + _END_OF_JPEG))
    except (ImageRefused, EnvelopeDamaged):
        return formats.Metadata(format)


def _note_moved(site: Site, subject: Subject, source: formats.SourceFacts) -> None:
    """Where the file for which the original was held is no longer there, the catalog is told: it is this one now.

    Raises TierBeingScanned, TierUnreachable.
    """
    holder = site.catalog.holder_of(subject.row.tier_id, source.inode, source.sha256)
    if holder is None or holder == subject.row.id:
        return
    row = site.catalog.file(holder)
    if row.state is not State.GONE and not fileops.stands(subject.tier.root_fd, row.directory, row.name):
        scan_directory(site.catalog, subject.tier, row.directory)


def _held(site: Site, subject: Subject, envelope: formats.Envelope) -> Holding | None:
    name = held_name(envelope.source.inode, envelope.source.sha256)
    try:
        stat = os.stat(name, dir_fd=subject.tier.holding_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Holding(name, stat.st_size, site.grace_ends())
