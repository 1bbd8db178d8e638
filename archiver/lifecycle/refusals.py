"""Files that were refused are not tried again before they change, or what judged them does: rules' schemes and gates,
the limits, the profile, the program.
"""

from __future__ import annotations

import json
from hashlib import sha256

from archiver import __version__
from archiver.catalog import Catalog
from archiver.config import Settings

_JUDGED_BY = "refusals.judged_by"  # settings of the catalog, one a tier: machines that share it have rules of their own


def are_outdated(catalog: Catalog, settings: Settings, tier: str) -> bool:
    """Whether what the catalog has of a tier's refusals was judged otherwise than it would be now."""
    return catalog.setting(f"{_JUDGED_BY}.{tier}") not in (None, _judge(settings, tier))


def forget_outdated(catalog: Catalog, settings: Settings, tier: str, tier_id: int) -> None:
    """Before a sweep: every file once refused is a candidate again, if it would be judged otherwise now."""
    key, now = f"{_JUDGED_BY}.{tier}", _judge(settings, tier)
    before = catalog.setting(key)
    if before == now:
        return
    if before is not None:
        catalog.forget_refusals(tier_id)
    catalog.set_setting(key, now)


def _judge(settings: Settings, tier: str) -> str:
    """A short name of all that decides whether a file of a tier is refused."""
    rules = [
        rule.model_dump(mode="json", include={"name", "scheme", "ladder", "gate"})
        for rule in settings.rule
        if not rule.tiers or tier in rule.tiers
    ]
    model = settings.model.model_dump(mode="json", include={"profile", "preset"})
    limits = settings.limits.model_dump(mode="json")
    return sha256(json.dumps([__version__, rules, model, limits], sort_keys=True).encode()).hexdigest()[:16]
