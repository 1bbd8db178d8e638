"""The end of the grace period: held originals are deleted, for good, and it is written down."""

from __future__ import annotations

import os
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from threading import Event

from archiver import formats
from archiver.catalog.rows import FileRow, HoldingRow, State
from archiver.errors import ArchiverError, HeldOriginalDamaged, ProfileUnknown, WeightsDamaged
from archiver.lifecycle.adopt import adopt
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.keeper import Keeper
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, attempt, failed, ignore
from archiver.lifecycle.ownership import require_own
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import hold
from archiver.lifecycle.verify import check_placeholder
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier


def expire(site: Site, now: datetime, *, listener: Listener = ignore, stop: Event | None = None) -> Tally:
    """Delete every held original whose grace period is over at `now`.

    An original is only deleted while its placeholder or recalled image still carries the record and the record's
    weights are whole in the vault; otherwise it is the last copy of something and stays, with a warning. In a tier that
    is archived with another catalog none is.
    """
    tally = Tally()
    damage = cache(partial(damage_of, site))  # weights may be large: they are read once a run
    foreign = cache(partial(_foreign, site))

    def tell(outcome: Outcome) -> None:
        tally.add(outcome)
        listener(outcome)

    for held in site.catalog.holding_due(int(now.timestamp())):
        if stop is not None and stop.is_set():
            return tally
        row = site.catalog.file(held.file_id)
        tier = site.tier_of(row)
        if tier is None:
            continue  # nobody can look whether its placeholder stands: it is held until its tier has a name again
        problem = foreign(tier.name) or damage(site.catalog.record(held.record_id).profile)
        act = partial(_expired, site.keeper(tier), held, problem)
        tell(attempt(tier.where(row.path), "expire", act, otherwise=Result.REFUSED))
    for tier in site.tiers.values():
        try:
            for outcome in site.keeper(tier).tidy():
                tell(outcome)
                if stop is not None and stop.is_set():
                    return tally
        except ArchiverError as error:
            tell(failed(tier.where(""), "expire", error))
    return tally


def damage_of(site: Site, profile: bytes) -> ArchiverError | None:
    """What is wrong with the weights that records name, which is all that their images can be made of from then on."""
    try:
        site.vault.prove(profile)
    except (ProfileUnknown, WeightsDamaged) as error:
        return error
    return None


def _foreign(site: Site, name: str) -> ArchiverError | None:
    """Why a tier's originals are not this catalog's to delete, or not now."""
    try:
        require_own(site.catalog, site.tiers[name])
    except ArchiverError as error:
        return error
    return None


def _expired(keeper: Keeper, held: HoldingRow, problem: ArchiverError | None) -> Outcome:
    if problem is not None:
        raise problem
    return keeper.expire(held)


def expire_file(site: Site, tier: LocalTier, held: HoldingRow) -> Outcome:
    """Delete one held original now. Raises ArchiverError, OSError; it is held as before then."""
    row = site.catalog.file(held.file_id)
    path = tier.root / row.path
    record_row = site.catalog.record(held.record_id)
    site.vault.require(record_row.profile)
    found = _found_held(tier, held, path)
    if row.record_id == held.record_id:  # else it is of a version that a user has written over
        if _released_again(site, tier, row, found):
            # The catalog was not told, as one that was put back from a backup: with a grace period anew.
            if row.state is not State.SUPERSEDED:
                site.catalog.mark_superseded(row.id, version=row.version)
            return adopt(site, tier, site.catalog.file(row.id))
        if row.state in (State.RELEASED, State.RECALLED):
            with hold(tier, row) as subject:
                check_placeholder(subject, record_row.payload, decode=True)
    if (found := _found_held(tier, held, path)) is None:
        site.catalog.mark_expired(held)  # a crash came between the deletion and its note
        return Outcome(path, "expire", Result.DONE, "was deleted already")
    os.unlink(held.name, dir_fd=tier.holding_fd)
    fileops.fsync_directory(tier.holding_fd)  # or it came back after a power cut, and no row would know it
    arrow("expire.unlinked")
    site.catalog.mark_expired(held)
    arrow("expire.committed")
    return Outcome(path, "expire", Result.DONE, bytes_before=found.st_blocks * 512)


def _found_held(tier: LocalTier, held: HoldingRow, path: Path) -> os.stat_result | None:
    """What there is of a held original. Raises HeldOriginalDamaged for one that somebody wrote to who had it open."""
    try:
        found = os.stat(held.name, dir_fd=tier.holding_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if found.st_size != held.size:
        raise HeldOriginalDamaged(path=path, held=tier.root / ".archiver" / "holding" / held.name)
    return found


def _released_again(site: Site, tier: LocalTier, row: FileRow, found: os.stat_result | None) -> bool:
    """Whether the original was given back and released once more since the catalog knows of it.

    The new placeholder has another inode than the old one, or the same by chance, as inodes are used again: then the
    original tells, as the exchange has changed its ctime.
    """
    if row.state is State.SUPERSEDED:
        return _carries_a_record(tier, row)
    if found is None or row.state not in (State.RELEASED, State.RECALLED):
        return False
    since = site.catalog.held_since(row.id)
    return since is not None and int(found.st_ctime) > since


def _carries_a_record(tier: LocalTier, row: FileRow) -> bool:
    """Whether what stands there is a placeholder or a generated image, and no picture of a user's."""
    if not fileops.stands(tier.root_fd, row.directory, row.name):
        return False
    with hold(tier, row) as subject, subject.reader() as file:
        return formats.look(file) in (formats.Found.PLACEHOLDER, formats.Found.GENERATED)
