"""Settings of what a bucket costs: [[prices]], named by a tier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator

from archiver.config_fields import Duration, Interval, Name, NonEmpty, Section, Share, Size

Price = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
StorageClass = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class StorageClassPrices(Section):
    """What one storage class costs: `month` and `retrieval` by the GB (2^30 bytes), `put` and `get` by the thousand."""

    name: StorageClass
    month: Price = 0.0
    least_size: Size = 0
    least_age: Duration = timedelta(0)
    overhead: Size = 0
    retrieval: Price = 0.0
    put: Price = 0.0
    get: Price = 0.0


class PriceSettings(Section):
    """One price list, and what is expected of the years that it is for. `decode` is the price of a thousand images."""

    name: Name
    currency: NonEmpty = "USD"
    as_of: str = ""
    horizon: Interval = timedelta(days=3 * 365)
    recalled: Share = 0.05
    decode: Price = 0.0
    transfer: Price = 0.0
    refuse: bool = True
    storage: Annotated[tuple[StorageClassPrices, ...], Field(min_length=1)]

    @field_validator("storage")
    @classmethod
    def _named_once(cls, storage: tuple[StorageClassPrices, ...]) -> tuple[StorageClassPrices, ...]:
        names = [one.name for one in storage]
        if len(set(names)) < len(names):
            raise ValueError("prices a storage class twice")
        return storage


def price_problems(tiers: Sequence[tuple[str, str]], lists: Sequence[PriceSettings]) -> Iterator[str]:
    """What tiers (name, the price list it names) and price lists, each valid alone, get wrong together."""
    names = [one.name for one in lists]
    yield from (f"two price lists have the name {name!r}" for name in sorted(set(names)) if names.count(name) > 1)
    for tier, wanted in tiers:
        if wanted and wanted not in names:
            yield f"tier {tier!r} names the price list {wanted!r}, which is not configured"
