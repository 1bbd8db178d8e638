"""Money: an estimate that can be done by hand, and nothing released that costs more than it saves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver.config_prices import PriceSettings
from archiver.config_tiers import S3TierSettings
from archiver.errors import CostsMore, PriceUnknown
from archiver.s3.costs import GIGABYTE, MONTH, Money, Priced, Terms, age_of

YEAR = timedelta(days=365)
PRICES = {
    "name": "list",
    "horizon": "1y",
    "recalled": 0.0,
    "storage": [
        {"name": "STANDARD", "month": 0.024, "put": 0.005, "get": 0.0004},
        {
            "name": "COLD",
            "month": 0.012,
            "least_size": "128 KiB",
            "least_age": "90d",
            "retrieval": 0.02,
            "put": 0.01,
            "get": 0.001,
        },
    ],
}


def terms(grace: str = "0s", prices: dict[str, Any] | None = None, **tier: Any) -> Terms:
    lists = (PriceSettings.model_validate({**PRICES, **(prices or {})}),)
    settings = S3TierSettings.model_validate({"name": "t", "kind": "s3", "bucket": "bbb", "prices": "list", **tier})
    found = Terms.of(settings, lists, timedelta(days=int(grace.removesuffix("d"))) if grace != "0s" else timedelta(0))
    assert found is not None
    return found


def priced(size: int = GIGABYTE, age: timedelta = YEAR, storage_class: str = "STANDARD", **more: Any) -> Priced:
    return Priced(size, 4096, age, storage_class, **more)


def test_the_bill_of_one_object_is_what_a_pencil_says() -> None:
    money = terms().estimate(priced())
    months = timedelta(days=365) / MONTH
    placeholder = 0.024 * 4096 / GIGABYTE
    assert money.month_now == pytest.approx(0.024)
    assert money.month_after == pytest.approx(placeholder)
    assert money.saved == pytest.approx((0.024 - placeholder) * months)
    assert money.requests == pytest.approx(3 * 0.0004 / 1000 + 0.005 / 1000)  # two looks, one read, one placeholder
    assert (money.retrieval, money.early_deletion, money.holding, money.recalls) == (0, 0, 0, 0)
    assert money.net == pytest.approx(money.saved - money.requests)


def test_a_held_original_is_paid_for_until_its_grace_is_over() -> None:
    held, gone = terms("30d").estimate(priced()), terms().estimate(priced())
    assert held.holding == pytest.approx(0.024 * (timedelta(days=30) / MONTH))
    assert held.requests - gone.requests == pytest.approx(0.005 / 1000)  # the copy
    as_version = terms("30d", holding="version").estimate(priced())
    assert as_version.holding == held.holding
    assert as_version.requests == pytest.approx(gone.requests)


@pytest.mark.parametrize(
    ("age", "grace", "holding", "days"),
    [
        (10, "0s", "copy", 80),  # the rest of the original's ninety days
        (90, "0s", "copy", 0),
        (10, "30d", "copy", 80 + 60),  # and of its copy's
        (400, "30d", "copy", 60),
        (10, "30d", "version", 50),  # the original goes when the grace period ends
        (70, "30d", "version", 0),
    ],
)
def test_a_colder_class_takes_its_fee_for_what_goes_too_early(age: int, grace: str, holding: str, days: int) -> None:
    item = priced(age=timedelta(days=age), storage_class="COLD")
    money = terms(grace, holding=holding).estimate(item)
    assert money.early_deletion == pytest.approx(0.012 * (timedelta(days=days) / MONTH))


def test_reading_a_colder_class_is_paid_for_each_time() -> None:
    assert terms().estimate(priced(storage_class="COLD")).retrieval == pytest.approx(0.02)
    assert terms("30d").estimate(priced(storage_class="COLD")).retrieval == pytest.approx(0.04)  # the copy reads it too
    assert terms("30d", holding="version").estimate(priced(storage_class="COLD")).retrieval == pytest.approx(0.02)


def test_a_small_object_is_billed_as_a_larger_one() -> None:
    bill = terms().estimate(priced(1, storage_class="COLD")).month_now
    assert bill == pytest.approx(0.012 * 128 * 1024 / GIGABYTE)
    cold = terms(placeholder_class="COLD").estimate(priced(200_000, storage_class="COLD"))
    assert cold.month_after == pytest.approx(bill)


def test_packed_records_are_small_objects_no_longer() -> None:
    packed = terms(placeholder_class="COLD", records="packed").estimate(priced(200_000, storage_class="COLD"))
    assert packed.month_after == pytest.approx(0.012 * 4096 / GIGABYTE)
    in_place = terms(placeholder_class="COLD").estimate(priced(200_000, storage_class="COLD"))
    assert packed.requests < in_place.requests


def test_decodes_and_recalls_are_paid_for() -> None:
    money = terms(prices={"decode": 2.0, "recalled": 0.5}).estimate(priced())
    assert money.decoding == pytest.approx(0.002)
    months = timedelta(days=365) / MONTH
    again = (0.024 - 0.024 * 4096 / GIGABYTE) * months / 2
    assert money.recalls == pytest.approx(0.5 * (again + 0.002 + 0.0054 / 1000))


def test_a_record_alone_saves_nothing() -> None:
    money = terms().estimate(priced(is_released=False))
    assert money.saved == 0
    assert money.net < 0
    assert money.month_now == money.month_after


def test_what_is_recorded_already_is_neither_read_nor_decoded_again() -> None:
    deal = terms("30d", prices={"decode": 2.0})
    cold = {"storage_class": "COLD"}
    new, recorded, recalled = (
        deal.estimate(priced(**cold, **more)) for more in ({}, {"is_recorded": True}, {"is_recalled": True})
    )
    assert (recorded.decoding, recalled.decoding) == (0, 0)
    assert (new.retrieval, recorded.retrieval, recalled.retrieval) == pytest.approx((0.04, 0.02, 0))
    assert recorded.holding == new.holding > recalled.holding == 0
    assert recalled.saved == recorded.saved == new.saved
    assert recalled.requests < recorded.requests < new.requests


def test_what_does_not_pay_is_refused_and_what_does_is_not() -> None:
    terms().require_worth(priced(5_000_000), "s3://bbb/a.jpg")
    with pytest.raises(CostsMore, match=r"s3://bbb/a\.jpg costs more than it saves: 0\.0000\d+ USD"):
        terms("30d").require_worth(priced(5_000), "s3://bbb/a.jpg")
    terms("30d", prices={"refuse": False}).require_worth(priced(5_000), "s3://bbb/a.jpg")


def test_a_class_without_a_price_is_named() -> None:
    with pytest.raises(PriceUnknown, match="list has no storage class GLACIER"):
        terms(storage_class="GLACIER")
    with pytest.raises(PriceUnknown):
        terms().estimate(priced(storage_class="GLACIER"))


def test_a_tier_without_a_price_list_says_nothing_of_money() -> None:
    tier = S3TierSettings.model_validate({"name": "t", "kind": "s3", "bucket": "bbb"})
    assert Terms.of(tier, (PriceSettings.model_validate(PRICES),), timedelta(0)) is None


def test_a_clock_that_goes_backwards_makes_nothing_old() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age_of(int((now.timestamp() + 86400) * 1e9), now) == timedelta(0)
    assert age_of(int((now.timestamp() - 86400) * 1e9), now) == timedelta(days=1)


sizes = st.integers(min_value=1, max_value=10**12)


@given(sizes, st.integers(0, 4000), st.sampled_from(["STANDARD", "COLD"]), st.sampled_from(["copy", "version"]))
def test_the_sum_of_a_plan_is_the_sum_of_its_acts(size: int, days: int, storage_class: str, holding: str) -> None:
    deal = terms("30d", holding=holding, prices={"recalled": 0.1, "decode": 1.0})
    one = deal.estimate(priced(size, timedelta(days=days), storage_class))
    other = deal.estimate(priced(storage_class="COLD"))
    both = one + other
    assert both.objects == 2
    assert both.net == pytest.approx(one.net + other.net)
    assert both.cost == pytest.approx(one.cost + other.cost)
    assert one + Money() == one
    assert min(one.requests, one.retrieval, one.early_deletion, one.holding, one.decoding, one.recalls) >= 0


@given(sizes, sizes)
def test_a_larger_object_of_the_same_class_never_pays_less(one: int, other: int) -> None:
    deal = terms("30d", prices={"recalled": 0.05})
    small, large = sorted((one, other))
    assert deal.estimate(priced(small)).net <= deal.estimate(priced(large)).net + 1e-12
