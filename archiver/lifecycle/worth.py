"""Whether acts on a bucket pay, by the price list that its tier names; nothing is asked of the bucket.

The catalog knows no storage classes: a plan takes the one that the tier's configuration says most images have. The
release itself sees the true one, and refuses what does not pay there.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from archiver.catalog.rows import State
from archiver.config import S3TierSettings, Settings
from archiver.errors import PlanCostsMore
from archiver.lifecycle.policy import Action, Why
from archiver.s3.costs import Money, Priced, Terms, age_of
from archiver.units import about_duration

if TYPE_CHECKING:
    from archiver.lifecycle.planned import PlannedAct, PlanSummary
    from archiver.s3.objects import ObjectInfo
    from archiver.tiers.protocol import Tier


class Purse:
    """The money of one tier at one time. Use `Purse.of`."""

    def __init__(self, terms: Terms, now: datetime) -> None:
        self.terms = terms
        self._now = now

    @classmethod
    def of(cls, tier: Tier, settings: Settings, now: datetime | None = None) -> Self | None:
        """That of a tier with a price list; None for any other: nothing is said of money there. Raises PriceUnknown."""
        if not isinstance(tier.settings, S3TierSettings):
            return None
        terms = Terms.of(tier.settings, settings.prices, settings.release.grace)
        return None if terms is None else cls(terms, now or datetime.now(UTC))

    def price(self, act: PlannedAct) -> Money:
        """What an act costs and saves."""
        return self.terms.estimate(self._priced(act))

    def pays(self, act: PlannedAct) -> bool:
        """Whether an act is not to be left out for what it costs. A record alone never pays, and was asked for."""
        return act.action is not Action.RELEASE or not self.terms.prices.refuse or self.price(act).net >= 0

    def require(self, act: PlannedAct, path: object) -> None:
        """Refuse an act that does not pay. Raises CostsMore."""
        self.terms.require_worth(self._priced(act), path)

    def require_release(self, info: ObjectInfo, after: int, path: object) -> None:
        """Refuse the release of a recorded object, its true class and age at hand. Raises CostsMore, PriceUnknown."""
        age = age_of(info.modified_ns, self._now)
        self.terms.require_worth(Priced(info.size, after, age, info.storage_class, is_recorded=True), path)

    def judge(self, summary: PlanSummary) -> None:
        """Refuse a plan, all of which was read: its records cost more than its releases save, or no release paid.

        Raises PlanCostsMore.
        """
        money = summary.money or Money()
        if not summary.files and summary.skipped[Why.COSTS]:
            money = summary.declined or money
        if self.terms.prices.refuse and money.net < 0:
            raise PlanCostsMore(
                tier=self.terms.tier.name,
                cost=self.terms.shown(money.cost),
                saved=self.terms.shown(money.saved),
                horizon=about_duration(self.terms.prices.horizon),
            )

    def lines(self, money: Money) -> Iterator[tuple[str, str]]:
        """The bill, for people: what it is and how much."""
        shown, period = self.terms.shown, about_duration(self.terms.prices.horizon)
        yield "storage a month now", shown(money.month_now)
        yield "and afterwards", shown(money.month_after)
        yield f"saved in {period}", shown(money.saved)
        for name, amount in (
            ("requests", money.requests),
            ("retrieval and transfer", money.retrieval),
            ("early deletion", money.early_deletion),
            ("originals held in their grace period", money.holding),
            ("trial decodes", money.decoding),
            (f"recalls to be expected ({self.terms.prices.recalled:.0%})", money.recalls),
        ):
            yield name, shown(-amount if amount else 0.0)
        yield f"net in {period}", shown(money.net)

    def _priced(self, act: PlannedAct) -> Priced:
        file = act.file
        return Priced(
            size=file.size,
            after=act.bytes_after,
            age=age_of(file.mtime_ns, self._now),
            storage_class=self.terms.tier.storage_class,
            is_released=act.action is Action.RELEASE,
            is_recorded=file.state is State.RECORDED,
            is_recalled=file.state is State.RECALLED,
        )
