"""What a release costs and saves on a bucket, by the price list of the configuration. Arithmetic: nothing is asked.

    saved = (a month of the original - a month of its placeholder) * horizon
    cost  = requests + retrieval + early deletion + the held original + decoding + recalls to be expected
    net   = saved - cost

Storage is billed by the GB (2^30 bytes) and month (a twelfth of 365.25 days), of at least `least_size` an object and at
least `least_age` after it was written. The age of an object is taken from its LastModified; one that a lifecycle rule
moved to its class later is younger there, so that its true fee can be higher.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Self

from archiver.config_prices import PriceSettings, StorageClassPrices
from archiver.config_tiers import S3TierSettings
from archiver.errors import CostsMore, PriceUnknown

GIGABYTE = 2**30
MONTH = timedelta(days=365.25) / 12
_HEADS = 2  # requests that only look: before the record, and before the release


@dataclass(frozen=True, slots=True)
class Money:
    """What acts on `objects` cost and save, in the currency of their price list. Add them up with `+`."""

    objects: int = 0
    month_now: float = 0.0
    month_after: float = 0.0
    saved: float = 0.0  # storage, over the horizon
    requests: float = 0.0
    retrieval: float = 0.0  # of colder classes, and transfer
    early_deletion: float = 0.0
    holding: float = 0.0  # the originals in their grace period
    decoding: float = 0.0  # trial decodes
    recalls: float = 0.0  # those to be expected over the horizon

    @property
    def cost(self) -> float:
        """All that is spent for it."""
        return self.requests + self.retrieval + self.early_deletion + self.holding + self.decoding + self.recalls

    @property
    def net(self) -> float:
        """What is left of the savings; negative where it costs more."""
        return self.saved - self.cost

    def __add__(self, other: Money) -> Money:
        return Money(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Money)))


@dataclass(frozen=True, slots=True)
class Priced:
    """An object that is to be recorded, and released or not: bytes now and after, its age, its storage class.

    `is_recorded`: it is, and is read no more; `is_recalled`: what stands there was generated, and is not held either.
    """

    size: int
    after: int
    age: timedelta
    storage_class: str
    is_released: bool = True
    is_recorded: bool = False
    is_recalled: bool = False

    @property
    def is_new(self) -> bool:
        """Whether a record has to be made first."""
        return not (self.is_recorded or self.is_recalled)


@dataclass(frozen=True, slots=True)
class Terms:
    """A price list as it is for one tier. Use `Terms.of`."""

    prices: PriceSettings
    tier: S3TierSettings
    grace: timedelta
    is_versioned: bool = False  # originals are held as older versions: no copy, but their class goes on

    @classmethod
    def of(cls, tier: S3TierSettings, lists: tuple[PriceSettings, ...], grace: timedelta) -> Self | None:
        """The terms of a tier; None where it names no price list, and nothing is said of money then.

        Raises PriceUnknown where the list has no price for a class that the tier uses.
        """
        prices = next((one for one in lists if one.name == tier.prices), None)
        if prices is None:
            return None
        terms = cls(prices, tier, grace, tier.holding == "version")
        for name in (tier.storage_class, tier.placeholder_class):
            terms.of_class(name)
        return terms

    @property
    def months(self) -> float:
        """The horizon."""
        return self.prices.horizon / MONTH

    def of_class(self, name: str) -> StorageClassPrices:
        """The prices of a storage class. Raises PriceUnknown."""
        found = next((one for one in self.prices.storage if one.name == name), None)
        if found is None:
            raise PriceUnknown(prices=self.prices.name, storage_class=name)
        return found

    def estimate(self, item: Priced) -> Money:
        """What becomes of the bill when one object is recorded, and released or not. Raises PriceUnknown."""
        there, kept = self.of_class(item.storage_class), self.of_class(self.tier.placeholder_class)
        read = item.size / GIGABYTE
        money = Money(
            objects=1,
            month_now=_month(there, item.size),
            month_after=_month(there, item.size),
            requests=(_HEADS + item.is_new) * there.get / 1000,
            retrieval=read * (there.retrieval + self.prices.transfer) * item.is_new,
            decoding=self.prices.decode / 1000 * item.is_new,
        )
        return money + self._released(item, there, kept) if item.is_released else money

    def _released(self, item: Priced, there: StorageClassPrices, kept: StorageClassPrices) -> Money:
        """What a release adds to its record."""
        now, after = _month(there, item.size), self._after(item, kept)
        return Money(
            month_after=after - now,
            saved=(now - after) * self.months,
            requests=(there.put * self._copies(item) + kept.put * (self.tier.records == "in-place")) / 1000,
            retrieval=item.size / GIGABYTE * there.retrieval * self._copies(item),
            early_deletion=self._early(item, there),
            holding=now * (self.grace / MONTH) * (not item.is_recalled),
            recalls=self.prices.recalled * self._recall(item, kept),
        )

    def _after(self, item: Priced, kept: StorageClassPrices) -> float:
        """A month of the placeholder: an object of its own, or one of many in a pack."""
        if self.tier.records == "packed":
            return kept.month * item.after / GIGABYTE
        return _month(kept, item.after)

    def _copies(self, item: Priced) -> bool:
        """Whether the original is copied, to be held. Deletions cost nothing, and a pack is one request for many."""
        return bool(self.grace) and not self.is_versioned and not item.is_recalled

    def _early(self, item: Priced, there: StorageClassPrices) -> float:
        """The rest of the least time that an original, and its held copy, are billed for all the same."""
        waits = self.is_versioned and not item.is_recalled
        rest = max(there.least_age - item.age - (self.grace if waits else timedelta(0)), timedelta(0))
        if self._copies(item):
            rest += max(there.least_age - self.grace, timedelta(0))
        return _month(there, item.size) * (rest / MONTH)

    def _recall(self, item: Priced, kept: StorageClassPrices) -> float:
        """One recall that is written back, half way through the horizon: the object is as large as before from then."""
        stands_again = (_month(kept, item.size) - self._after(item, kept)) * self.months / 2
        return (self.prices.decode + kept.put + kept.get) / 1000 + max(stands_again, 0.0)

    def require_worth(self, item: Priced, path: object) -> None:
        """Refuse the release of an object that costs more than it saves. Raises CostsMore, PriceUnknown."""
        money = self.estimate(item)
        if self.prices.refuse and item.is_released and money.net < 0:
            raise CostsMore(path=path, cost=self.shown(money.cost), saved=self.shown(money.saved))

    def shown(self, amount: float) -> str:
        """An amount for people: "12.30 USD", and small ones with all that matters."""
        digits = 2 if not amount or abs(amount) >= 1 else 6
        return f"{amount:,.{digits}f} {self.prices.currency}"


def age_of(modified_ns: int, now: datetime) -> timedelta:
    """How long ago an object was written; a time stamp in the future is just now."""
    return max(timedelta(seconds=now.timestamp() - modified_ns / 1e9), timedelta(0))


def _month(prices: StorageClassPrices, size: int) -> float:
    """A month of one object."""
    return prices.month * (max(size, prices.least_size) + prices.overhead) / GIGABYTE
