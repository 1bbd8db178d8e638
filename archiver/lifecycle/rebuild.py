"""The catalog from the files alone: every placeholder carries its record, every held original its name."""

from __future__ import annotations

from threading import Event

from archiver import formats
from archiver.catalog.rows import FileRow, State
from archiver.errors import ArchiverError, from_os_error
from archiver.lifecycle.adopt import adopt
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, ignore
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import hold
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import scan


def rebuild(site: Site, *, listener: Listener = ignore, stop: Event | None = None) -> Tally:
    """Scan every tier, then open each resident file and adopt those that carry a record.

    Safe on a catalog that is only partly lost: files it knows as released or recalled are left as they are. Can be
    interrupted and run again. Raises TierUnreachable.
    """
    tally = Tally()
    for tier in site.tiers.values():
        scan(site.catalog, tier, stop=stop)
        for row in site.catalog.stream_files(site.tier_ids[tier.name], (State.RESIDENT, State.SUPERSEDED)):
            if stop is not None and stop.is_set():
                return tally
            outcome = _look(site, tier, row)
            if outcome is not None:
                arrow("rebuild.adopted")
                tally.add(outcome)
                listener(outcome)
    return tally


def _look(site: Site, tier: LocalTier, row: FileRow) -> Outcome | None:
    """Adopt one file if it carries a record; None when it is an ordinary image."""
    path = tier.root / row.path
    try:
        with hold(tier, row) as subject, subject.reader() as file:
            carries = formats.read_envelope(file) is not None
        return adopt(site, tier, row) if carries else None
    except OSError as error:
        failure: ArchiverError = from_os_error(error, path)
    except ArchiverError as error:
        failure = error
    return Outcome(path, "adopt", Result.FAILED, failure.message, error=failure)
