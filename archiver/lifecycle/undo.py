"""Within the grace period: the original bytes back at their place, checked against their hash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import BinaryIO

from archiver import formats
from archiver.catalog.rows import FileRow, HoldingRow, State
from archiver.errors import FileModified, FileOpen, HeldOriginalDamaged, NothingHeld
from archiver.lifecycle import reconcile
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, attempt, failed, ignore
from archiver.lifecycle.placeholder import require_unwritten
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold, locked
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier, Where

_UNDOABLE = (State.RELEASED, State.RECALLED, State.SUPERSEDED, State.GONE)


def undo(
    site: Site,
    paths: Sequence[Where],
    *,
    to: Path | None = None,
    listener: Listener = ignore,
    stop: Event | None = None,
) -> Tally:
    """Give the held originals of `paths` (files, or folders with all below them) back.

    With `to`, a copy of each original is put into that folder and nothing else changes: the way out when a user has
    meanwhile written to the file. Raises NotInAnyTier, NotTracked.
    """
    tally = Tally()
    for path in paths:
        for tier, row in site.rows(path, _UNDOABLE):
            if stop is not None and stop.is_set():
                return tally
            outcome = attempt(tier.where(row.path), "undo", partial(_undone, site, tier, row, to))
            tally.add(outcome)
            listener(outcome)
    return tally


def _undone(site: Site, tier: Tier, row: FileRow, to: Path | None) -> Outcome:
    try:
        return site.keeper(tier).undo(row, to)
    except NothingHeld as error:
        return failed(tier.where(row.path), "undo", error, Result.SKIPPED)


def undo_file(site: Site, tier: LocalTier, row: FileRow, to: Path | None) -> Outcome:
    """Give one held original back. Raises NothingHeld, HeldOriginalDamaged, FileModified, FileOpen, OSError."""
    path = tier.root / row.path
    held = site.catalog.holding_for(row.id)
    if held is None:
        raise NothingHeld(path=path)
    require_current(row, held, to, path)
    _check_original(tier, held, site.catalog.record(held.record_id).sha256, path)
    arrow("undo.verified")
    if to is not None:
        _copy_out(tier, held, to / row.name)
        return Outcome(path, "undo", Result.DONE, f"copied to {to / row.name}", bytes_after=held.size)
    if fileops.stands(tier.root_fd, row.directory, row.name):
        with hold(tier, row) as subject:
            _exchange(site, subject, held)
    else:
        _put_back(site, tier, row, held)
    return Outcome(path, "undo", Result.DONE, bytes_after=held.size)


def require_current(row: FileRow, held: HoldingRow, to: Path | None, path: Where) -> None:
    """Raises FileModified where the original of an earlier version would take the place of a later one."""
    if to is None and held.record_id != row.record_id:
        raise FileModified(path=path, state=State.RELEASED.label)


def _copy_out(tier: LocalTier, held: HoldingRow, target: Path) -> None:
    """Copy a held original, with its attributes and times, never over another file. Raises OSError."""
    fd = fileops.open_file(tier.holding_fd, held.name, os.O_RDONLY)
    with os.fdopen(fd, "rb") as original, new_file(target, 0o600) as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        fileops.copy_attributes(fd, copy.fileno())


@contextmanager
def new_file(target: Path, mode: int) -> Iterator[BinaryIO]:
    """A file of that mode (the umask counts), synced once the body has written it; taken away where that fails.

    Raises OSError: FileExistsError where something has that name.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(fd)
        except BaseException:
            target.unlink()  # part of a photograph under its name would be taken for it
            raise


def _check_original(tier: LocalTier, held: HoldingRow, sha256: bytes, path: Path) -> None:
    """Raises HeldOriginalDamaged, NothingHeld."""
    try:
        fd = fileops.open_file(tier.holding_fd, held.name, os.O_RDONLY)
    except FileNotFoundError:
        raise NothingHeld(path=path) from None
    try:
        if fileops.sha256_of(fd) != sha256:
            raise HeldOriginalDamaged(path=path, held=tier.root / ".archiver" / "holding" / held.name)
    finally:
        os.close(fd)


def _exchange(site: Site, subject: Subject, held: HoldingRow) -> None:
    """Swap the original in for the placeholder or the recalled image. Raises FileModified when neither stands there."""
    subject.require_unchanged()
    with subject.reader() as file:
        if formats.look(file) in (formats.Found.ORDINARY, formats.Found.EDITED):
            raise FileModified(path=subject.path, state=State.RELEASED.label)
        envelope = formats.read_envelope(file)
    if subject.row.state is State.SUPERSEDED and envelope is not None:
        require_unwritten(subject, envelope)
    if subject.row.state is State.RECALLED and fileops.sha256_of(subject.fd) != site.catalog.recalled_hash(
        subject.row.id
    ):
        raise FileModified(path=subject.path, state=subject.row.state.label)
    tier = subject.tier
    intent = Intent("undo", subject.row.path, held.record_id, subject.stat.st_ino, held=held.name)
    with reconcile.journalled(site, tier, intent):
        arrow("undo.journalled")
        with fileops.write_lease(subject.fd, subject.path) as lease:
            _give_attributes(subject, held)
            subject.require_as_opened()
            fileops.exchange(subject.directory_fd, subject.row.name, tier.holding_fd, held.name)
            if lease.broken or subject.changed() or not subject.stands_at(tier.holding_fd, held.name):
                # Somebody waits to open what is about to be unlinked, and what they wrote would go with it; or they
                # renamed another file over it, which would.
                fileops.exchange(subject.directory_fd, subject.row.name, tier.holding_fd, held.name)
                raise FileOpen(path=subject.path)
        fileops.fsync_directory(subject.directory_fd)
        fileops.fsync_directory(tier.holding_fd)
        arrow("undo.exchanged")
        os.unlink(held.name, dir_fd=tier.holding_fd)
        arrow("undo.unlinked")
        restored = os.stat(subject.row.name, dir_fd=subject.directory_fd, follow_symlinks=False)
        site.catalog.mark_undone(subject.row.id, version=reconcile.version_of(restored))
        arrow("undo.committed")


def _give_attributes(subject: Subject, held: HoldingRow) -> None:
    """Who may read it, and what it is tagged with, may have been changed since its release: that stays."""
    fd = fileops.open_file(subject.tier.holding_fd, held.name)
    try:
        fileops.copy_attributes(subject.fd, fd, times=False)
    finally:
        os.close(fd)


def _put_back(site: Site, tier: LocalTier, row: FileRow, held: HoldingRow) -> None:
    """The placeholder was deleted or its folder is empty of it: the original simply takes its old name again.

    Raises NothingHeld, FileModified, FileBusy, OSError.
    """
    path = tier.root / row.path
    directory_fd = fileops.make_directories(tier.root_fd, row.directory)
    with ExitStack() as opened:
        opened.callback(os.close, directory_fd)
        original = _lock_original(opened, tier, held, path)
        intent = Intent("undo", row.path, held.record_id, original.st_ino, held=held.name)
        with reconcile.journalled(site, tier, intent):
            arrow("undo.journalled")
            try:
                fileops.rename_noreplace(tier.holding_fd, held.name, directory_fd, row.name)
            except FileExistsError:  # saved there just now
                raise FileModified(path=path, state=row.state.label) from None
            fileops.fsync_directory(directory_fd)
            fileops.fsync_directory(tier.holding_fd)
            arrow("undo.exchanged")
            site.catalog.mark_undone(row.id, version=reconcile.version_of(original))
            arrow("undo.committed")


def _lock_original(opened: ExitStack, tier: LocalTier, held: HoldingRow, path: Path) -> os.stat_result:
    """Keep others off a held original that stands in for its placeholder: another undo may be about to put it back.

    Raises NothingHeld, FileBusy, OSError.
    """
    try:
        fd = fileops.open_file(tier.holding_fd, held.name)
        opened.callback(os.close, fd)
        opened.enter_context(locked(fd, path))
        return os.stat(held.name, dir_fd=tier.holding_fd, follow_symlinks=False)
    except FileNotFoundError:  # it was put back just now
        raise NothingHeld(path=path) from None
