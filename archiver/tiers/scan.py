"""The scan: one walk over a tier, directory by directory, that brings the catalog up to date.

A directory whose fingerprint is the stored one costs a listing and nothing else. What the walk cannot see (another
filesystem, a folder it may not read, a disk that is gone) is unknown, not absent: only what a complete listing in the
tier's own folder lacks becomes gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from archiver.catalog import Catalog
from archiver.errors import TierNotScanned
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier
from archiver.tiers.report import Progress, ScanReport, ScanWarning
from archiver.tiers.walk import Walk, alone

__all__ = ["Progress", "ScanReport", "ScanWarning", "scan", "scan_directory"]


def scan(
    catalog: Catalog,
    tier: Tier,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> ScanReport:
    """Scan a whole tier of any kind. Once `stop` is set it ends after what is at hand; what it saw until then is kept.

    Raises TierUnreachable (also where the tier vanishes meanwhile: nothing is gone then), TierBeingScanned,
    CatalogUnavailable, or what from_os_error makes of a failing disk.
    """
    if not isinstance(tier, LocalTier):
        from archiver.s3.tier import S3Tier

        assert isinstance(tier, S3Tier)
        try:
            from archiver.s3.scan import scan_bucket
        except ModuleNotFoundError:
            tier.check()  # says that boto3 is not installed
            raise
        return scan_bucket(catalog, tier, progress=progress, stop=stop)
    walk = Walk(catalog, tier, progress, stop)
    with walk.reachable():
        if walk.is_blank():
            # The folder below a mount must not be taken for the tier: the disk would be the stranger later.
            walk.tally.warn(str(tier.root), "the folder is empty: it is not taken for scanned until something is in it")
            return walk.report(complete=False)
        with alone(tier):
            walk.adopt()
            complete = walk.run("")
            report = walk.report(complete)
            if complete:
                catalog.finish_scan(walk.tier_id, int(time.time()), report.summary())
    return report


def scan_directory(
    catalog: Catalog, tier: LocalTier, relative: str, *, stop: threading.Event | None = None
) -> ScanReport:
    """Bring one directory of a tier up to date, and all below it that the catalog does not know yet.

    Where it is gone, the nearest directory above it that is there is taken instead. Raises as `scan` does, and
    TierNotScanned before the first one.
    """
    walk = Walk(catalog, tier, stop=stop)
    if not walk.is_adopted:
        raise TierNotScanned(tier=tier.name)
    with walk.reachable(), alone(tier):
        complete = walk.run(relative, new_only=True)
    return walk.report(complete)
