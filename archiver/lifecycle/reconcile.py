"""Finish or take back what a crash or an error left, one journal entry at a time.

`settle` is the only code that decides what an interrupted act amounts to; the acts call it when they fail, the start of
every process calls it for what a dead one left. It reads the files, not its memory, and running it twice changes
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256

from archiver import formats
from archiver.catalog.rows import FileRow, Holding, State, Version, held_name
from archiver.errors import (
    ArchiverError,
    EnvelopeDamaged,
    FileBusy,
    NotRegular,
    PlaceholderDamaged,
    RecordVersionUnknown,
    TierUnreachable,
)
from archiver.formats import BLOCK, Envelope, Kind, Metadata
from archiver.lifecycle import journal
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, ignore
from archiver.lifecycle.overwrite import write_over
from archiver.lifecycle.placeholder import placeholder_head
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import locked
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier


def reconcile(site: Site, listener: Listener = ignore) -> Tally:
    """Settle what dead processes left in every tier's journal. A tier out of reach is an outcome; the others go on."""
    tally = Tally()
    for tier in site.tiers.values():
        try:
            _settle_all(site, tier, tally, listener)
        except (ArchiverError, OSError) as error:
            _tell(Outcome(tier.where(""), "reconcile", Result.FAILED, str(error)), tally, listener)
    return tally


def settle_first(site: Site, tiers: Iterable[Tier], listener: Listener) -> Tally:
    """Settle what dead processes left in these tiers, before an act that would meet files the catalog is wrong about.

    A tier out of reach is passed over: the act itself says so. Raises ArchiverError, OSError.
    """
    tally = Tally()
    for tier in tiers:
        with suppress(TierUnreachable):
            _settle_all(site, tier, tally, listener)
    return tally


def _settle_all(site: Site, tier: Tier, tally: Tally, listener: Listener) -> None:
    for outcome in site.keeper(tier).settle():
        _tell(outcome, tally, listener)


def _tell(outcome: Outcome, tally: Tally, listener: Listener) -> None:
    tally.add(outcome)
    listener(outcome)


def settle_left_behind(site: Site, tier: LocalTier) -> Iterator[Outcome]:
    """Settle every entry of a tier's journal whose process is dead."""
    if not tier.has_area():
        return
    for intent in journal.left_behind(tier.journal_fd):
        if isinstance(intent, PlaceholderDamaged):
            yield Outcome(tier.root, "reconcile", Result.FAILED, intent.message)
            continue
        path = tier.root / intent.path
        try:
            with _locked(tier, intent):
                what = settle(site, tier, intent)
            journal.strike(tier.journal_fd, intent)
            yield Outcome(path, "reconcile", Result.DONE, f"{intent.act} {what}")
        except FileBusy as error:
            yield Outcome(path, "reconcile", Result.SKIPPED, f"{intent.act}: {error}")
        except (ArchiverError, OSError) as error:
            yield Outcome(path, "reconcile", Result.FAILED, f"{intent.act}: {error}")


@contextmanager
def _locked(tier: LocalTier, intent: Intent) -> Iterator[None]:
    """Keep other acts off the file that stands at the place of a dead one. Raises FileBusy, OSError."""
    folder, _, name = intent.path.rpartition("/")
    with ExitStack() as opened:
        try:
            directory_fd = fileops.open_directory(tier.root_fd, folder)
            opened.callback(os.close, directory_fd)
            fd = fileops.open_file(directory_fd, name)
            opened.callback(os.close, fd)
            opened.enter_context(locked(fd, tier.root / intent.path))
        except (FileNotFoundError, NotRegular):
            pass  # nothing that another act could be about
        yield


@contextmanager
def journalled(
    site: Site, tier: LocalTier, intent: Intent, ready: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Run an act under its journal entry; when it fails it is settled as after a crash, and the failure raised on.

    `ready` is waited for between the entry and the act. It touches nothing: where it fails there is nothing to settle.
    """
    with journal.begun(tier.journal_fd, intent):
        try:
            ready()
        except Exception:
            journal.strike(tier.journal_fd, intent)
            raise
        try:
            yield
        except Exception:
            settle(site, tier, intent)
            journal.strike(tier.journal_fd, intent)
            raise
        journal.strike(tier.journal_fd, intent)


def settle(site: Site, tier: LocalTier, intent: Intent) -> str:
    """Bring file, holding area and catalog of one interrupted act into agreement; says what was found.

    The row is looked up by path: a catalog rebuilt meanwhile has other numbers, and one that was lost has none.
    """
    row = site.catalog.find(site.tier_ids[tier.name], intent.path)
    folder, _, name = intent.path.rpartition("/")
    try:
        directory_fd = fileops.open_directory(tier.root_fd, folder)
    except FileNotFoundError:
        return "left alone: its folder is gone"
    try:
        return _SETTLE[intent.act](_Spot(site, tier, intent, row, directory_fd, name))
    except _FileGone:
        return "left alone: the file is gone"
    finally:
        os.close(directory_fd)


def version_of(stat: os.stat_result) -> Version:
    """What the version guard compares."""
    return Version(size=stat.st_size, mtime_ns=stat.st_mtime_ns, inode=stat.st_ino)


def behind_block(placeholder: os.stat_result) -> int:
    """Bytes on disk that a placeholder takes beyond one block."""
    return max(0, placeholder.st_blocks * 512 - BLOCK)


def commit_release(
    site: Site, row: FileRow, intent: Intent, placeholder: os.stat_result, held_size: int, *, behind: int
) -> None:
    """Write *released* into the catalog, with the held original, in one transaction. behind: see `behind_block`."""
    site.catalog.mark_released(
        row.id,
        intent.record_id,
        version=version_of(placeholder),
        holding=Holding(intent.held, held_size, intent.expires_at),
        rule=intent.rule,
        behind=behind,
    )


def commit_restore(
    site: Site, tier: LocalTier, row: FileRow, copy: str, restored: os.stat_result, *, detail: str = ""
) -> None:
    """Write into the catalog that the original's exact bytes stand at its path; copies of them are deleted."""
    held = site.catalog.holding_of(row)
    if held is not None:
        _unlink(tier.holding_fd, held.name)
    if row.state is State.RELEASED:
        site.catalog.mark_restored(row.id, version=version_of(restored), detail=detail)
    _unlink(tier.holding_fd, copy)


class _FileGone(Exception):
    """Nothing stands any more where the act was interrupted."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where an interrupted act took place: the file's folder, open, its name in it, and its row if there is one."""

    site: Site
    tier: LocalTier
    intent: Intent
    row: FileRow | None
    directory_fd: int
    name: str

    def standing(self) -> os.stat_result | None:
        return _stat_at(self.directory_fd, self.name)

    def held(self) -> os.stat_result | None:
        return _stat_at(self.tier.holding_fd, self.intent.held)

    @contextmanager
    def opened(self) -> Iterator[tuple[int, Envelope | None]]:
        """The file open for writing, and what it carries. Raises _FileGone, OSError."""
        try:
            fd = fileops.open_file(self.directory_fd, self.name, os.O_RDWR)
        except FileNotFoundError:
            raise _FileGone from None
        try:
            with os.fdopen(fd, "rb", closefd=False) as file:
                envelope = formats.read_envelope(file)
            yield fd, envelope
        finally:
            os.close(fd)

    def drop_held(self) -> None:
        os.unlink(self.intent.held, dir_fd=self.tier.holding_fd)

    def sync(self) -> None:
        fileops.fsync_directory(self.directory_fd)
        fileops.fsync_directory(self.tier.holding_fd)


def _settle_release(spot: _Spot) -> str:
    _unlink(spot.tier.holding_fd, spot.intent.unfinished)
    held, row = spot.held(), spot.row
    if held is None:
        return "already settled"
    if held.st_ino != spot.intent.inode:
        return _take_back(spot)  # the exchange did not happen, or was taken back: what is held is the placeholder
    if row is None or row.state is not State.RECORDED or row.record_id != spot.intent.record_id:
        return "already settled"  # or the catalog was lost: rebuild adopts the placeholder, with what is held
    standing = spot.standing()
    if standing is None:
        fileops.rename_noreplace(spot.tier.holding_fd, spot.intent.held, spot.directory_fd, spot.name)
        spot.sync()
        return "taken back: the placeholder had vanished"
    found = _ours_at(spot, spot.directory_fd, spot.name)
    if found is not None and (held.st_size, held.st_mtime_ns) != (row.size, row.mtime_ns):
        fileops.exchange(spot.directory_fd, spot.name, spot.tier.holding_fd, spot.intent.held)
        _take_back(spot)
        return "taken back: the original was written to meanwhile"
    spot.sync()
    return _commit_found(spot, row, standing, held.st_size, found)


def _commit_found(
    spot: _Spot, row: FileRow, standing: os.stat_result, held_size: int, found: formats.Found | None
) -> str:
    """Commit a release of which time has passed since the exchange: somebody may have read the placeholder, or saved
    another file in its place.
    """
    behind = behind_block(standing) if found is formats.Found.PLACEHOLDER else 0
    commit_release(spot.site, row, spot.intent, standing, held_size, behind=behind)
    if found is formats.Found.PLACEHOLDER:
        return "finished"
    if found is formats.Found.GENERATED:
        with spot.opened() as (fd, _):
            spot.site.catalog.mark_recalled(row.id, fileops.sha256_of(fd), version=version_of(standing))
        return "finished, and recalled meanwhile"
    spot.site.catalog.mark_superseded(row.id, version=version_of(standing))
    return "finished; another file was saved there meanwhile, and the original is held"


def _take_back(spot: _Spot) -> str:
    """The placeholder is dropped, if that is what is held: exchanges go by names, and somebody may have saved another
    file under this one.
    """
    if _ours_at(spot, spot.tier.holding_fd, spot.intent.held) is not None:
        spot.drop_held()
        spot.sync()
        return "taken back"
    if spot.standing() is None:
        fileops.rename_noreplace(spot.tier.holding_fd, spot.intent.held, spot.directory_fd, spot.name)
    elif _ours_at(spot, spot.directory_fd, spot.name) is not None:
        fileops.exchange(spot.directory_fd, spot.name, spot.tier.holding_fd, spot.intent.held)
        spot.drop_held()
    else:
        return f"left alone: what was saved there meanwhile is in .archiver/holding/{spot.intent.held}"
    spot.sync()
    return "taken back: another file was saved there meanwhile"


def _ours_at(spot: _Spot, directory_fd: int, name: str) -> formats.Found | None:
    """PLACEHOLDER or GENERATED for the placeholder of this very release, or the image it was filled with; None for all
    else, an edited image and another picture's placeholder too. Raises FileNotFoundError, FileOpen, OSError.
    """
    try:
        fd = fileops.open_file(directory_fd, name)
    except NotRegular:
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            envelope, found = formats.read_envelope(file), formats.look(file)
        except (EnvelopeDamaged, RecordVersionUnknown):
            return None
    if envelope is None or held_name(envelope.source.inode, envelope.source.sha256) != spot.intent.held:
        return None
    return found if found in (formats.Found.PLACEHOLDER, formats.Found.GENERATED) else None


def _settle_recall(spot: _Spot) -> str:
    """A recall or a re-release: the first block tells which form the file has; the other form's rest is cleared."""
    with spot.opened() as (fd, envelope):
        if envelope is None or os.fstat(fd).st_ino != spot.intent.inode or not _is_of_row(spot, envelope):
            return "left alone: another file stands there"
        if envelope.kind is Kind.GENERATED and _is_edited(fd):
            return _supersede(spot, fd)
        said = _keep_generated(spot, fd) if envelope.kind is Kind.GENERATED else _keep_placeholder(spot, fd, envelope)
        fileops.set_times(fd, os.fstat(fd).st_atime_ns, envelope.source.mtime_ns)
        os.fsync(fd)
        return said


def _is_of_row(spot: _Spot, envelope: Envelope) -> bool:
    """Whether it carries the record of the row, where there is one: another picture may have been copied over it."""
    number = None if spot.row is None else spot.row.record_id
    return number is None or spot.site.catalog.record(number).payload == envelope.record


def _is_edited(fd: int) -> bool:
    with os.fdopen(fd, "rb", closefd=False) as file:
        return formats.look(file) is formats.Found.EDITED


def _supersede(spot: _Spot, fd: int) -> str:
    """Somebody wrote to the generated image before it was settled: it is theirs."""
    if spot.row is not None and spot.row.state in (State.RELEASED, State.RECALLED):
        spot.site.catalog.mark_superseded(spot.row.id, version=version_of(os.fstat(fd)))
    return "left alone: it was written to meanwhile"


def _keep_generated(spot: _Spot, fd: int) -> str:
    """The first block was the last to be written: the image is whole."""
    if spot.row is None or spot.row.state is not State.RELEASED:
        return "taken back: the recalled image stays"
    version = Version(spot.row.size, spot.row.mtime_ns, spot.intent.inode)
    spot.site.catalog.mark_recalled(spot.row.id, fileops.sha256_of(fd), version=version)
    return "finished"


def _keep_placeholder(spot: _Spot, fd: int, envelope: Envelope) -> str:
    row = spot.row
    if row is None or row.record_id is None:
        return "left alone: rebuild adopts the placeholder"
    # Later blocks of a head may have been overwritten already: they hold metadata only, and the catalog has that too.
    record_row = spot.site.catalog.record(row.record_id)
    packed = spot.site.catalog.metadata(record_row.id)
    metadata = Metadata(envelope.source.format) if packed is None else Metadata.from_bytes(packed)
    head = placeholder_head(record_row, envelope.source, metadata)
    os.pwrite(fd, head, 0)
    os.fsync(fd)
    fileops.punch_from(fd, len(head))
    if row.state is State.RECALLED:
        version = Version(row.size, row.mtime_ns, spot.intent.inode)
        spot.site.catalog.mark_rereleased(row.id, version=version, rule=spot.intent.rule)
    if spot.intent.act == "rerelease":
        spot.site.forget(fd)
        return "finished"
    return "taken back: the placeholder stays"


def _settle_restore(spot: _Spot) -> str:
    """A lossless recall. The copy is whole before the placeholder is touched: a whole one is put in place."""
    copy = _read_at(spot.tier.holding_fd, spot.intent.held)
    with spot.opened() as (fd, envelope):
        if os.fstat(fd).st_ino != spot.intent.inode or spot.row is None or spot.row.record_id is None:
            return "left alone: another file stands there"
        record = spot.site.catalog.record(spot.row.record_id)
        is_whole = copy is not None and sha256(copy).digest() == record.sha256
        if envelope is not None and (copy is None or not is_whole):
            _unlink(spot.tier.holding_fd, spot.intent.held)
            with os.fdopen(fd, "rb", closefd=False) as file:
                fileops.punch_from(fd, formats.payload_end(file))
            fileops.set_times(fd, os.fstat(fd).st_atime_ns, envelope.source.mtime_ns)
            return "taken back: the placeholder stays"
        if envelope is not None and copy is not None:
            write_over(fd, copy, spot.tier.root / spot.intent.path, "restore")
        if fileops.sha256_of(fd) != record.sha256:
            return f"left alone: it was written to meanwhile; the original is in .archiver/holding/{spot.intent.held}"
        fileops.set_times(fd, os.fstat(fd).st_atime_ns, spot.row.mtime_ns)
        os.fsync(fd)
        commit_restore(spot.site, spot.tier, spot.row, spot.intent.held, os.fstat(fd))
        return "finished"


def _settle_undo(spot: _Spot) -> str:
    standing, held = spot.standing(), spot.held()
    if standing is None or f"{standing.st_ino:x}" != spot.intent.held.partition("-")[0]:
        return "taken back"
    if held is not None and held.st_ino != spot.intent.inode:
        # Another file, which somebody saved just then: it goes back, and the original is held as before.
        fileops.exchange(spot.directory_fd, spot.name, spot.tier.holding_fd, spot.intent.held)
        spot.sync()
        return "taken back: another file was saved there meanwhile"
    if held is not None:
        spot.drop_held()  # the placeholder, exchanged out
    spot.sync()
    if spot.row is not None and spot.row.state is not State.RECORDED:
        spot.site.catalog.mark_undone(spot.row.id, version=version_of(standing))
    return "finished"


_SETTLE: dict[str, Callable[[_Spot], str]] = {
    "release": _settle_release,
    "recall": _settle_recall,
    "rerelease": _settle_recall,
    "restore": _settle_restore,
    "undo": _settle_undo,
}


def _stat_at(directory_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _read_at(directory_fd: int, name: str) -> bytes | None:
    try:
        fd = fileops.open_file(directory_fd, name)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _unlink(directory_fd: int, name: str) -> None:
    with suppress(FileNotFoundError):  # it ended before its note did
        os.unlink(name, dir_fd=directory_fd)
