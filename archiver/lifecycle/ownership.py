"""Whose a tier is: one catalog's, from the first release in it.

What a release promised is written in the catalog that made it. Another one, of a second installation on the same tier,
knows nothing of it: by its own grace period it would delete originals that the first still holds.
"""

from __future__ import annotations

from archiver.catalog import Catalog
from archiver.catalog.tiers import IDENTITY
from archiver.errors import TierOfAnotherCatalog, from_os_error
from archiver.lifecycle.site import Site
from archiver.tiers.protocol import Tier


def is_anothers(tier: Tier, identity: str | None) -> bool:
    """Whether another catalog than the one of this identity has the tier. Raises ArchiverError."""
    return _owner(tier) not in ("", identity)


def require_own(catalog: Catalog, tier: Tier) -> None:
    """Before plans, releases and the end of grace periods. Raises TierOfAnotherCatalog, ArchiverError."""
    if is_anothers(tier, catalog.setting(IDENTITY)):
        raise TierOfAnotherCatalog(tier=tier.name)


def claim(site: Site, tier: Tier) -> None:
    """Before the first release in a tier: it is this catalog's from now on.

    Raises TierOfAnotherCatalog, ArchiverError.
    """
    if not _owner(tier):
        _own(site, tier)
    require_own(site.catalog, tier)  # another may have been faster


def take_over(site: Site, tier: Tier) -> None:
    """Where a tier is another catalog's it is this one's from now on, because somebody said so; that is written down.

    Raises ArchiverError.
    """
    if is_anothers(tier, site.catalog.identity()):
        _own(site, tier, instead=True)
        site.catalog.note_accepted(site.tier_ids[tier.name], "it was another catalog's")


def _owner(tier: Tier) -> str:
    try:
        return tier.owner()
    except OSError as error:
        raise from_os_error(error, tier.where("")) from error


def _own(site: Site, tier: Tier, *, instead: bool = False) -> None:
    try:
        tier.own(site.catalog.identity(), instead=instead)
    except OSError as error:
        raise from_os_error(error, tier.where("")) from error
