"""The catalog from the files alone: every placeholder carries its record, every held original its name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import partial
from threading import Event

from archiver import formats
from archiver.catalog.rows import FileRow, State
from archiver.errors import TierEmpty
from archiver.lifecycle.adopt import adopt
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, attempt, ignore
from archiver.lifecycle.ownership import take_over
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier
from archiver.tiers.scan import scan

ADOPTABLE = (State.RESIDENT, State.SUPERSEDED)
_FORMS = {State.RELEASED: formats.Found.PLACEHOLDER, State.RECALLED: formats.Found.GENERATED}


def rebuild(
    site: Site, *, accept: Collection[str] = (), listener: Listener = ignore, stop: Event | None = None
) -> Tally:
    """Scan every tier, then open each resident file and adopt those that carry a record.

    Safe on a catalog that is only partly lost, or older than the files: what it knows as released or recalled is left
    as it is where that is so. Can be interrupted and run again. `accept`: names of tiers for which another folder or
    filesystem may stand in from now on, as a copy on a new disk. A tier that was another catalog's is this one's from
    then on. Raises TierUnreachable.
    """
    tally = Tally()
    for local in site.local_tiers:
        if local.name in accept:
            _accept(site, local)
    for tier in site.tiers.values():
        scan(site.catalog, tier, stop=stop)
        take_over(site, tier)
        for outcome in site.keeper(tier).rebuild(stop):
            arrow("rebuild.adopted")
            tally.add(outcome)
            listener(outcome)
    return tally


def _accept(site: Site, tier: LocalTier) -> None:
    """Take what stands at a tier's root for it. Raises TierUnreachable; TierEmpty: a disk goes there."""
    tier.expect(None)
    if not os.listdir(tier.root_fd):
        raise TierEmpty(tier=tier.name, root=tier.root)
    site.catalog.accept_identity(site.tier_ids[tier.name], str(tier.check()))


def rebuild_files(site: Site, tier: LocalTier, stop: Event | None) -> Iterator[Outcome]:
    """Open each file of a tier just scanned, and adopt it if it carries a record that the catalog does not tell of."""
    for row in site.catalog.stream_files(site.tier_ids[tier.name], (*ADOPTABLE, *_FORMS)):
        if stop is not None and stop.is_set():
            return
        look = _look_again if row.state in _FORMS else _look
        outcome = attempt(tier.root / row.path, "adopt", partial(look, site, tier, row))
        if outcome.result is not Result.SKIPPED:
            yield outcome


def adopt_moved(site: Site, tier: Tier, since: int) -> Iterator[Outcome]:
    """After a scan, adopt what was released or recalled and stands at another place of the tier now.

    A scan opens no file: by its name alone a moved placeholder is a new file, and taken for an original.
    `since`: seconds since 1970; what was gone before is not asked about. An object of a bucket cannot be moved.
    """
    if not isinstance(tier, LocalTier):
        return
    for row in site.catalog.moved(site.tier_ids[tier.name], since):
        outcome = attempt(tier.root / row.path, "adopt", partial(_look, site, tier, row))
        if outcome.result is not Result.SKIPPED:
            yield outcome


def _look(site: Site, tier: LocalTier, row: FileRow) -> Outcome:
    """Adopt one file if it carries a record; SKIPPED where it is an ordinary image and none that was given back."""
    with hold(tier, row) as subject:
        with subject.reader() as file:
            found = formats.look(file)
        if found is formats.Found.ORDINARY and _given_back(site, subject):
            site.catalog.mark_undone(row.id, version=row.version)
            return Outcome(subject.path, "adopt", Result.DONE, "its original was given back")
    if found in (formats.Found.ORDINARY, formats.Found.EDITED):
        return Outcome(subject.path, "adopt", Result.SKIPPED)
    return adopt(site, tier, row)


def _given_back(site: Site, subject: Subject) -> bool:
    """Whether the very original stands there that the catalog takes to be held, and is not.

    The scan of a catalog from a backup takes it for a picture of a user's, and nobody else would ever look: status
    would promise a copy of the original that is not there until its grace period had ended.
    """
    held = site.catalog.holding_of(subject.row) if subject.row.state is State.SUPERSEDED else None
    if held is None or fileops.stands(subject.tier.holding_fd, "", held.name):
        return False
    subject.require_unchanged()
    return subject.sha256() == site.catalog.record(held.record_id).sha256


def _look_again(site: Site, tier: LocalTier, row: FileRow) -> Outcome:
    """Adopt one file that is released or recalled if the catalog is wrong about which, or about its record.

    A catalog from a backup knows nothing of what was recalled, released or given back since, and a recall leaves inode,
    length and time as they were. What is neither form nor the original is damaged: verify tells of it.
    """
    with hold(tier, row) as subject:
        subject.require_unchanged()
        row = site.catalog.file(row.id)  # as it is now that nobody else acts on it
        record = None if row.record_id is None else site.catalog.record(row.record_id)
        with subject.reader() as file:
            found, envelope = formats.look(file), formats.read_envelope(file)
        if row.state not in _FORMS or record is None:
            return Outcome(subject.path, "adopt", Result.SKIPPED)
        known = found is _FORMS[row.state] and envelope is not None and envelope.record == record.payload
        ours = found in _FORMS.values() or subject.sha256() == record.sha256
        if known or not ours:
            return Outcome(subject.path, "adopt", Result.SKIPPED)
        site.catalog.mark_superseded(row.id, version=row.version)
    return _look(site, tier, site.catalog.file(row.id))
