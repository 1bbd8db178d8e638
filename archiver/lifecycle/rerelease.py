"""From recalled back to released: no decode, no encode, only the placeholder's head and a hole."""

from __future__ import annotations

import os
from functools import partial

from archiver import formats
from archiver.catalog.rows import FileRow
from archiver.errors import FileModified, HardLinked, PlaceholderDamaged
from archiver.lifecycle import reconcile
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.pinning import refuse_pinned
from archiver.lifecycle.placeholder import placeholder_head, read_carried
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


def rerelease(site: Site, tier: LocalTier, row: FileRow, rule: str) -> Outcome:
    """Punch an unmodified recalled file back to its placeholder.

    Raises FileModified when a user has edited the generated image (it is a new original then), Pinned, HardLinked,
    FileOpen, OSError; ProfileUnknown where the record's weights are not in the vault, RecallUnreachable where its next
    reader would not be noticed.
    """
    site.require_noticing()
    with hold(tier, row, os.O_RDWR) as subject:
        if subject.stat.st_nlink != 1:
            raise HardLinked(path=subject.path, links=subject.stat.st_nlink)
        refuse_pinned(site, subject)
        subject.require_unchanged()
        envelope, metadata = read_carried(subject, formats.Kind.GENERATED)
        record_row = site.catalog.record(row.record_id) if row.record_id is not None else None
        if record_row is None or record_row.payload != envelope.record:
            raise PlaceholderDamaged(path=subject.path, problem="its record is not the catalog's")
        site.vault.require(record_row.profile)
        head = placeholder_head(record_row, envelope.source, metadata)
        before = fileops.allocated_bytes(subject.fd)
        intent = Intent("rerelease", row.path, record_row.id, row.inode, rule=rule)
        with reconcile.journalled(site, tier, intent, ready=partial(refuse_pinned, site, subject)):
            arrow("rerelease.journalled")
            with fileops.write_lease(subject.fd, subject.path):
                _require_as_generated(site, subject)  # nobody has it open any more
                put_placeholder_back(subject, head)
                site.forget(subject.fd)  # before anybody can open it
            site.catalog.mark_rereleased(row.id, version=reconcile.version_of(os.fstat(subject.fd)), rule=rule)
            arrow("rerelease.committed")
        after = fileops.allocated_bytes(subject.fd)
    return Outcome(
        subject.path, "release", Result.DONE, bytes_before=before, bytes_after=after, record_bytes=len(envelope.record)
    )


def put_placeholder_back(subject: Subject, head: bytes) -> None:
    """The head first, synced: from then on the file is a placeholder, and what follows is space to give back."""
    os.pwrite(subject.fd, head, 0)
    os.fsync(subject.fd)
    arrow("rerelease.head_written")
    fileops.punch_from(subject.fd, len(head))
    fileops.set_times(subject.fd, subject.stat.st_atime_ns, subject.stat.st_mtime_ns)
    os.fsync(subject.fd)
    arrow("rerelease.punched")


def _require_as_generated(site: Site, subject: Subject) -> None:
    """Raises FileModified unless the image is byte for byte what was recalled."""
    subject.require_unchanged()
    if fileops.sha256_of(subject.fd) != site.catalog.recalled_hash(subject.row.id):
        raise FileModified(path=subject.path, state=subject.row.state.label)
