"""Money: what is not done because it does not pay."""

from __future__ import annotations

from archiver.errors.base import ArchiverError


class CostsMore(ArchiverError):
    """{path} costs more than it saves: {cost}, for {saved} of storage"""

    exit_code = 1
    hint = "The image stays as it is. `archiver plan` shows what costs; prices and their horizon are in [[prices]]."


class PlanCostsMore(ArchiverError):
    """the plan for tier {tier} costs more than it saves: {cost}, for {saved} of storage in {horizon}"""

    exit_code = 1
    hint = "Nothing was changed. With `refuse = false` in its [[prices]] costs are only shown."


class PriceUnknown(ArchiverError):
    """the price list {prices} has no storage class {storage_class}"""

    exit_code = 2
    hint = "Add a [[prices.storage]] of that name to it; without `prices` a tier is archived without a word of money."
