"""A file that carries its own record but has no row that says so: moved, copied, restored from a backup, or the catalog
was lost.
"""

from __future__ import annotations

import os
import time

from archiver import formats
from archiver.catalog.rows import Adopted, FileRow, Holding, NewRecord, State, held_name
from archiver.codec.record import Record
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.placeholder import read_carried
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


def adopt(site: Site, tier: LocalTier, row: FileRow) -> Outcome:
    """Take a placeholder into the catalog as released, a generated image as recalled, with the record that it carries.

    Its held original is found again by name if it is still there. Raises PlaceholderDamaged, RecordCorrupt, OSError.
    """
    with hold(tier, row) as subject:
        subject.require_unchanged()
        envelope, metadata = read_carried(subject, *formats.Kind)
        record = Record.from_bytes(envelope.record)
        placeholder = envelope.kind is formats.Kind.PLACEHOLDER
        site.catalog.adopt(
            Adopted(
                NewRecord(
                    file_id=row.id,
                    expected=row.version,
                    payload=envelope.record,
                    sha256=envelope.source.sha256,
                    profile=record.profile,
                    scheme=record.scheme,
                    format=envelope.source.format,
                    width=envelope.source.width,
                    height=envelope.source.height,
                    metadata=metadata.to_bytes() if metadata else None,
                ),
                state=State.RELEASED if placeholder else State.RECALLED,
                recalled_sha256=None if placeholder else fileops.sha256_of(subject.fd),
                holding=_held(site, subject, envelope),
            )
        )
        return Outcome(subject.path, "adopt", Result.DONE, record_bytes=len(envelope.record))


def _held(site: Site, subject: Subject, envelope: formats.Envelope) -> Holding | None:
    name = held_name(envelope.source.inode, envelope.source.sha256)
    try:
        stat = os.stat(name, dir_fd=subject.tier.holding_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    expires = int(time.time() + site.settings.release.grace.total_seconds())
    return Holding(name, stat.st_size, expires)
