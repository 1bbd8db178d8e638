"""A site of a configuration: catalog, vault and tiers opened, and who keeps each kind of tier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from archiver.access.client import let_through
from archiver.catalog import Catalog
from archiver.config import Settings
from archiver.formats import Limits
from archiver.lifecycle.keeper import Keeper
from archiver.lifecycle.site import Site
from archiver.models.vault import Vault
from archiver.s3.tier import S3Tier
from archiver.tiers.local import LocalTier
from archiver.tiers.opening import open_tier
from archiver.tiers.protocol import Tier


@contextmanager
def open_site(settings: Settings, *, readonly: bool = False) -> Iterator[Site]:
    """Open catalog, vault and tiers; a tier that cannot be reached is left out of nothing, it only fails when it is
    used.

    Raises CatalogUnavailable, CatalogOutdated.
    """
    with Catalog.open(settings.catalog_url) as catalog:
        tiers = {tier.name: open_tier(tier) for tier in settings.tier}
        if readonly:
            rows = {row.name: row for row in catalog.tiers()}
        else:
            rows = {name: catalog.ensure_tier(name, tier.kind, tier.settings.root) for name, tier in tiers.items()}
        for name, row in rows.items():
            if name in tiers:
                tiers[name].expect(row.identity or None)
        ids = {name: row.id for name, row in rows.items()}
        limits = Limits(pixels=settings.limits.pixels, file_size=settings.limits.file_size)
        site = Site(settings, catalog, Vault(settings.vault.path), tiers, ids, limits, _keeper)
        try:
            with let_through(settings.recall.socket) as site.recall_client:
                yield site
        finally:
            site.close()
            for tier in tiers.values():
                tier.close()


def _keeper(site: Site, tier: Tier) -> Keeper:
    # Imported when asked for: neither kind of tier pays for the other's libraries.
    if isinstance(tier, LocalTier):
        from archiver.lifecycle.local import LocalKeeper

        return LocalKeeper(site, tier)
    assert isinstance(tier, S3Tier)  # there are two kinds
    tier.store  # noqa: B018 - says so where boto3 is not installed
    from archiver.s3.keeper import S3Keeper

    return S3Keeper(site, tier)
