"""Finish or take back what a crash or an error left, one journal entry at a time.

`settle` is the only code that decides what an interrupted act amounts to; the acts call it when they fail, the start of
every process calls it for what a dead one left. It reads the files, not its memory, and running it twice changes
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from archiver import formats
from archiver.catalog.rows import FileRow, Holding, State, Version
from archiver.errors import ArchiverError
from archiver.formats import Envelope, Kind, Metadata
from archiver.lifecycle import journal
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, ignore
from archiver.lifecycle.placeholder import placeholder_head
from archiver.lifecycle.site import Site
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


def reconcile(site: Site, listener: Listener = ignore) -> Tally:
    """Settle every entry of every tier's journal. A tier that cannot be reached is an outcome, and the others go on."""
    tally = Tally()
    for tier in site.tiers.values():
        try:
            intents = list(journal.entries(tier.journal_fd)) if tier.has_area() else []
        except (ArchiverError, OSError) as error:
            outcome = Outcome(tier.root, "reconcile", Result.FAILED, str(error))
            tally.add(outcome)
            listener(outcome)
            continue
        for intent in intents:
            path = tier.root / intent.path
            try:
                what = settle(site, tier, intent)
                journal.strike(tier.journal_fd, intent)
                outcome = Outcome(path, "reconcile", Result.DONE, f"{intent.act} {what}")
            except (ArchiverError, OSError) as error:
                outcome = Outcome(path, "reconcile", Result.FAILED, f"{intent.act}: {error}")
            tally.add(outcome)
            listener(outcome)
    return tally


@contextmanager
def journalled(site: Site, tier: LocalTier, intent: Intent) -> Iterator[None]:
    """Run an act under its journal entry; when it fails it is settled as after a crash, and the failure raised on."""
    journal.begin(tier.journal_fd, intent)
    try:
        yield
    except Exception:
        settle(site, tier, intent)
        journal.strike(tier.journal_fd, intent)
        raise
    journal.strike(tier.journal_fd, intent)


def settle(site: Site, tier: LocalTier, intent: Intent) -> str:
    """Bring file, holding area and catalog of one interrupted act into agreement; says what was found."""
    return {
        "release": _settle_release,
        "recall": _settle_recall,
        "rerelease": _settle_recall,
        "undo": _settle_undo,
    }[intent.act](site, tier, intent)


def version_of(stat: os.stat_result) -> Version:
    """What the version guard compares."""
    return Version(size=stat.st_size, mtime_ns=stat.st_mtime_ns, inode=stat.st_ino)


def commit_release(site: Site, intent: Intent, placeholder: os.stat_result, held_size: int) -> None:
    """Write *released* into the catalog, with the held original, in one transaction."""
    site.catalog.mark_released(
        intent.file_id,
        intent.record_id,
        version=version_of(placeholder),
        holding=Holding(intent.held, held_size, intent.expires_at),
        rule=intent.rule,
    )


def _settle_release(site: Site, tier: LocalTier, intent: Intent) -> str:
    held = _stat_at(tier.holding_fd, intent.held)
    row = site.catalog.file(intent.file_id)
    if held is None:
        return "already settled"
    if held.st_ino != intent.inode:
        # The exchange did not happen (or was taken back): what is held is the placeholder.
        os.unlink(intent.held, dir_fd=tier.holding_fd)
        return "taken back"
    if row.state is State.RECORDED:
        directory_fd = fileops.open_directory(tier.root_fd, row.directory)
        try:
            placeholder = _stat_at(directory_fd, row.name)
            if placeholder is None:
                # Somebody removed or renamed the placeholder before we came back; the original is kept until its grace
                # ends.
                fileops.fsync_directory(tier.holding_fd)
                return _return_original(tier, directory_fd, row, intent)
            if (held.st_size, held.st_mtime_ns) != (row.size, row.mtime_ns):
                fileops.exchange(directory_fd, row.name, tier.holding_fd, intent.held)
                os.unlink(intent.held, dir_fd=tier.holding_fd)
                fileops.fsync_directory(directory_fd)
                return "taken back: the original was written to meanwhile"
            fileops.fsync_directory(directory_fd)
            fileops.fsync_directory(tier.holding_fd)
        finally:
            os.close(directory_fd)
        commit_release(site, intent, placeholder, held_size=held.st_size)
        return "finished"
    return "already settled"


def _return_original(tier: LocalTier, directory_fd: int, row: FileRow, intent: Intent) -> str:
    fileops.rename_noreplace(tier.holding_fd, intent.held, directory_fd, row.name)
    fileops.fsync_directory(directory_fd)
    return "taken back: the placeholder had vanished"


def _settle_recall(site: Site, tier: LocalTier, intent: Intent) -> str:
    """A recall or a re-release: the first block tells which of the two forms the file has; the other form's rest is
    cleared.
    """
    row = site.catalog.file(intent.file_id)
    if row.state not in (State.RELEASED, State.RECALLED):
        return "already settled"
    directory_fd = fileops.open_directory(tier.root_fd, row.directory)
    try:
        fd = fileops.open_file(directory_fd, row.name, os.O_RDWR)
    finally:
        os.close(directory_fd)
    try:
        stat = os.fstat(fd)
        if stat.st_ino != intent.inode or stat.st_size != row.size:
            return "left alone: another file stands there"
        with os.fdopen(fd, "rb", closefd=False) as file:
            envelope = formats.read_envelope(file)
        if envelope is None:
            return "left alone: the file carries no record"
        if envelope.kind is Kind.GENERATED:
            return _keep_generated(site, row, fd)
        return _keep_placeholder(site, row, fd, envelope)
    finally:
        os.close(fd)


def _keep_generated(site: Site, row: FileRow, fd: int) -> str:
    stat = os.fstat(fd)
    fileops.set_times(fd, stat.st_atime_ns, row.mtime_ns)
    os.fsync(fd)
    if row.state is State.RECALLED:
        return "taken back: the recalled image stays"
    site.catalog.mark_recalled(row.id, fileops.sha256_of(fd), version=version_of(os.fstat(fd)))
    return "finished"


def _keep_placeholder(site: Site, row: FileRow, fd: int, envelope: Envelope) -> str:
    stat = os.fstat(fd)
    if row.record_id is not None:
        # Later blocks of a head may have been overwritten already: they hold metadata only, and the catalog has that
        # too.
        record_row = site.catalog.record(row.record_id)
        head = placeholder_head(record_row, envelope.source, _metadata_of(site, record_row.id, envelope))
        os.pwrite(fd, head, 0)
        os.fsync(fd)
        fileops.punch_from(fd, len(head))
    fileops.set_times(fd, stat.st_atime_ns, row.mtime_ns)
    os.fsync(fd)
    if row.state is State.RECALLED:
        site.catalog.mark_rereleased(row.id, version=version_of(os.fstat(fd)), rule="")
        return "finished"
    return "taken back: the placeholder stays"


def _metadata_of(site: Site, record_id: int, envelope: Envelope) -> Metadata:
    packed = site.catalog.metadata(record_id)
    return Metadata(envelope.source.format) if packed is None else Metadata.from_bytes(packed)


def _settle_undo(site: Site, tier: LocalTier, intent: Intent) -> str:
    row = site.catalog.file(intent.file_id)
    if row.state is State.RECORDED:
        return "already settled"
    original_inode = int(intent.held.partition("-")[0], 16)
    directory_fd = fileops.open_directory(tier.root_fd, row.directory)
    try:
        standing = _stat_at(directory_fd, row.name)
        if standing is None or standing.st_ino != original_inode:
            return "taken back"
        held = _stat_at(tier.holding_fd, intent.held)
        if held is not None and held.st_ino == intent.inode:
            os.unlink(intent.held, dir_fd=tier.holding_fd)  # the placeholder, exchanged out
        fileops.fsync_directory(directory_fd)
        site.catalog.mark_undone(row.id, version=version_of(standing))
        return "finished"
    finally:
        os.close(directory_fd)


def _stat_at(directory_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
