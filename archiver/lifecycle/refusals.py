"""Files that were refused are not tried again before they change, or what judged them does: rules' schemes and gates,
the limits, the profile, the program.
"""

from __future__ import annotations

import json
from hashlib import sha256

from archiver import __version__
from archiver.catalog import Catalog
from archiver.config import Settings

_JUDGED_BY = "refusals.judged_by"  # a setting of the catalog


def are_outdated(catalog: Catalog, settings: Settings) -> bool:
    """Whether what the catalog has of refusals was judged otherwise than it would be now."""
    known = catalog.setting(_JUDGED_BY)
    return known is not None and known != _judge(settings)


def forget_outdated(catalog: Catalog, settings: Settings) -> None:
    """Before a sweep: every file once refused is a candidate again, if it would be judged otherwise now."""
    if are_outdated(catalog, settings):
        catalog.forget_refusals()
    if catalog.setting(_JUDGED_BY) != _judge(settings):
        catalog.set_setting(_JUDGED_BY, _judge(settings))


def _judge(settings: Settings) -> str:
    """A short name of all that decides whether a file is refused."""
    rules = [rule.model_dump(mode="json", include={"name", "scheme", "ladder", "gate"}) for rule in settings.rule]
    model = settings.model.model_dump(mode="json", include={"profile", "preset"})
    limits = settings.limits.model_dump(mode="json")
    return sha256(json.dumps([__version__, rules, model, limits], sort_keys=True).encode()).hexdigest()[:16]
