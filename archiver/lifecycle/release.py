"""From recorded to released: the original goes to the holding area, a placeholder takes its name.

The order is that of docs/architecture.md; `arrow` marks the steps between which tests kill the process. Whatever goes
wrong in between, by error or by crash, is put right by the same code: reconcile.settle.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

from archiver import formats
from archiver.catalog.rows import FileRow, RecordRow, State, held_name
from archiver.codec.fidelity import FidelityReport
from archiver.errors import (
    FileModified,
    FileOpen,
    HardLinked,
    NothingSaved,
    NotRecorded,
    PlaceholderDamaged,
)
from archiver.formats import Inspection, Kind
from archiver.lifecycle import exact, reconcile
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.expire import expire_file
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.pinning import refuse_pinned
from archiver.lifecycle.placeholder import placeholder_head, source_facts
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import OpenFile, Subject, hold, locked
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


def release(
    site: Site,
    tier: LocalTier,
    row: FileRow,
    rule: str,
    *,
    fidelity: FidelityReport | None = None,
    inspection: Inspection | None = None,
    packed: bytes | None = None,
) -> Outcome:
    """Release one recorded file; its original is held for the grace period, or deleted at once where that is zero.

    `inspection`: what was found when it was recorded. `packed`: of a lossless record, the original as `exact.pack` gave
    it. Both are made anew where they are not at hand.
    Raises an ArchiverError (the promise that forbids it, or what broke) or OSError; the file is then whole, as it was.
    """
    if row.state is not State.RECORDED or row.record_id is None:
        raise NotRecorded(path=tier.root / row.path, state=row.state.label)
    record_row = site.catalog.record(row.record_id)
    with hold(tier, row) as subject:
        _refuse_what_must_stay(site, subject, record_row)
        before = fileops.allocated_bytes(subject.fd)
        if inspection is None:
            with subject.reader() as file:
                # Not decoded again: its record was made from bytes of the same hash, which were decoded to their end.
                inspection = formats.survey(file, site.limits)
        head = placeholder_head(record_row, source_facts(row, inspection, record_row.sha256), inspection.metadata)
        if exact.is_exact(record_row.scheme):
            packed = packed or exact.pack(subject, inspection, record_row.sha256)
            head = formats.placed_behind(head, packed)
            if len(head) >= subject.stat.st_size:
                raise NothingSaved(after=len(head), before=subject.stat.st_size)
        intent = Intent(
            act="release",
            path=row.path,
            record_id=record_row.id,
            inode=row.inode,
            held=held_name(row.inode, record_row.sha256),
            rule=rule,
            expires_at=site.grace_ends(),
        )
        with reconcile.journalled(site, tier, intent, ready=partial(refuse_pinned, site, subject)):
            arrow("release.journalled")
            after = _exchange(site, subject, record_row, head, intent)
    if site.settings.release.grace.total_seconds() == 0 and (held := site.catalog.holding_of(row)) is not None:
        expire_file(site, tier, held)
    return Outcome(
        subject.path,
        "release",
        Result.DONE,
        bytes_before=before,
        bytes_after=after,
        record_bytes=len(record_row.payload),
        fidelity=fidelity,
    )


def _refuse_what_must_stay(site: Site, subject: Subject, record_row: RecordRow) -> None:
    """Promise 2, but for what only the lease can tell. Raises the error that names the reason."""
    if subject.stat.st_nlink != 1:
        raise HardLinked(path=subject.path, links=subject.stat.st_nlink)
    subject.require_unchanged()
    refuse_pinned(site, subject)
    site.vault.require(record_row.profile)


def _exchange(site: Site, subject: Subject, record_row: RecordRow, head: bytes, intent: Intent) -> int:
    """Write the placeholder, swap it with the original under a lease, commit.

    Returns the placeholder's bytes on disk.
    """
    tier = subject.tier
    placeholder_fd = os.open(
        intent.unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=tier.holding_fd
    )
    with ExitStack() as resources:
        resources.callback(os.close, placeholder_fd)
        # A reader's recall waits until the catalog knows what it is.
        resources.enter_context(locked(placeholder_fd, subject.path))
        arrow("release.placeholder_started")
        _write_placeholder(subject, placeholder_fd, head, exact.is_exact(record_row.scheme))
        fileops.rename_noreplace(tier.holding_fd, intent.unfinished, tier.holding_fd, intent.held)
        arrow("release.placeholder_written")
        with fileops.write_lease(subject.fd, subject.path) as lease:
            arrow("release.leased")
            subject.require_unchanged()
            if fileops.sha256_of(subject.fd) != record_row.sha256:
                raise FileModified(path=subject.path, state=subject.row.state.label)
            subject.require_as_opened()
            fileops.exchange(subject.directory_fd, subject.row.name, tier.holding_fd, intent.held)
            if lease.broken or subject.changed() or not subject.stands_at(tier.holding_fd, intent.held):
                # Somebody opened it between the lease and the exchange: the names go back before that open returns. Or
                # they saved by renaming another file over it, which no lease tells of.
                fileops.exchange(subject.directory_fd, subject.row.name, tier.holding_fd, intent.held)
                raise FileOpen(path=subject.path)
        fileops.fsync_directory(subject.directory_fd)
        fileops.fsync_directory(tier.holding_fd)
        arrow("release.exchanged")
        placeholder = os.fstat(placeholder_fd)
        behind = reconcile.behind_block(placeholder)
        reconcile.commit_release(site, subject.row, intent, placeholder, subject.stat.st_size, behind=behind)
        arrow("release.committed")
        return fileops.allocated_bytes(placeholder_fd)


def _write_placeholder(subject: Subject, fd: int, head: bytes, is_exact: bool) -> None:
    """Fill, size, dress and sync the placeholder, then read it back as a stranger would.

    Raises PlaceholderDamaged, OSError.
    """
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(head)
    os.ftruncate(fd, subject.stat.st_size)
    fileops.copy_attributes(subject.fd, fd)
    os.fsync(fd)
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        envelope = formats.read_envelope(file)
    if is_exact and envelope is not None:
        # The whole way back, from what was just written: these bytes are the only ones once the grace period is over.
        exact.unpack(OpenFile(subject.path, fd, os.fstat(fd)), envelope)
    if envelope is None or envelope.kind is not Kind.PLACEHOLDER:
        raise PlaceholderDamaged(path=subject.path, problem="the placeholder just written cannot be read back")
