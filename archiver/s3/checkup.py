"""What `archiver doctor` looks at in a bucket: whether it answers, what its server can do, what was left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

from archiver.catalog.rows import TierRow
from archiver.checks import Check, Verdict, belonging
from archiver.config import S3TierSettings
from archiver.errors import ConditionIgnored
from archiver.s3.objects import Abilities
from archiver.s3.tier import JOURNAL, S3Tier
from archiver.units import about_duration

_OLD_REPORT = timedelta(days=9)  # S3 writes them daily or weekly


def look_at(settings: S3TierSettings, row: TierRow | None, identity: str | None) -> Iterator[Check]:
    """Every check of one tier; scratch objects are written and deleted again. `identity`: the catalog's, if it has one.

    Raises ArchiverError.
    """
    subject = f"tier {settings.name}"
    with closing(S3Tier(settings)) as tier:
        tier.expect(row.identity if row else None)
        tier.check()
        yield Check(subject, Verdict.OK, f"{settings.root} answers at {settings.endpoint or 'AWS'}")
        yield from _abilities(subject, settings, tier.store.abilities)
        if under_way := sum(1 for _ in tier.store.list(JOURNAL)):
            hint = "Acts of a running archiver, or what a crash left; the latter `archiver reconcile` settles."
            yield Check(subject, Verdict.WARNING, f"{under_way} journal entries", hint)
        if settings.inventory is not None:
            yield _inventory(subject, tier)
        yield from belonging(tier, identity)
        if row is None or row.first_scan_done_at is None:
            yield Check(subject, Verdict.WARNING, "never scanned", "`archiver scan`; nothing is archived before.")


def _abilities(subject: str, settings: S3TierSettings, able: Abilities) -> Iterator[Check]:
    kept = "versions are kept" if able.versioned else "no versions are kept"
    writes = able.conditional_put and (settings.records == "in-place" or able.conditional_delete)
    if writes:
        yield Check(subject, Verdict.OK, f"conditional writes (If-Match), {kept}")
    elif able.versioned:
        hint = "A write is taken back where it turns out to cover another version: correct, but more requests."
        yield Check(subject, Verdict.WARNING, f"no conditional writes, but {kept}", hint)
    else:
        error = ConditionIgnored(tier=settings.name)
        yield Check(subject, Verdict.BROKEN, error.message, error.hint)
    if settings.holding == "version" and not able.versioned:
        hint = 'Turn on versioning, or say holding = "copy" or "auto".'
        yield Check(subject, Verdict.BROKEN, f'holding is "version", and {kept}', hint)
    if able.object_lock:
        yield Check(subject, Verdict.OK, "Object Lock: what is under retention or a legal hold stays as it is")


def _inventory(subject: str, tier: S3Tier) -> Check:
    from archiver.s3.inventory import open_inventory

    inventory = open_inventory(tier)
    age = datetime.now(UTC) - inventory.created
    found = f"inventory report of {inventory.created:%Y-%m-%d %H:%M} UTC ({about_duration(age)} old)"
    if age > _OLD_REPORT:
        return Check(subject, Verdict.WARNING, found, "Does S3 still write it? Newer objects are not found through it.")
    return Check(subject, Verdict.OK, found)
