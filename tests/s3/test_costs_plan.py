"""`archiver plan` and `archiver archive` with prices: the bill is shown, and nothing is done that does not pay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.config_text import render
from tests.cli.installation import Answer, call
from tests.fixtures_s3 import Bucket

STANDARD = {"name": "STANDARD", "month": 0.023, "put": 0.005, "get": 0.0004}
COLD = {"name": "COLD", "month": 0.004, "least_age": "90d", "retrieval": 0.03, "put": 0.02, "get": 0.01}


@pytest.fixture
def run(bucket: Bucket, tmp_path: Path) -> Callable[..., Answer]:
    """Call the program on a bucket of three images, with prices: run("plan", prices={...}, tier={...}, rule={...})."""
    for name, size in (("small.jpg", 20_000), ("middle.jpg", 300_000), ("large.jpg", 4_000_000)):
        bucket.put(f"photos/{name}", b"\xff\xd8\xff" + bytes(size - 3))

    def called(*arguments: str, prices: Any = None, tier: Any = None, rule: Any = None) -> Answer:
        given = bucket.settings(**{"prefix": "photos/", "prices": "list", **(tier or {})})
        cold = {"name": "cold", "min_size": 0, "unused_for": "0s", "unchanged_for": "0s", **(rule or {})}
        settings = Settings.model_validate(
            {
                "catalog": {"url": f"sqlite:///{tmp_path}/catalog.db"},
                "vault": {"path": str(tmp_path / "vault")},
                "tier": [given.model_dump(exclude_unset=True, mode="json") | {"kind": "s3"}],
                "rule": [cold],
                "prices": [{"name": "list", "recalled": 0.0, "storage": [STANDARD, COLD], **(prices or {})}],
            }
        )
        (tmp_path / "config.toml").write_text(render(settings))
        upgrade(settings.catalog_url)
        call("--config", tmp_path / "config.toml", "scan").ok()
        return call("--config", tmp_path / "config.toml", *arguments)

    return called


def plan_of(answer: Answer) -> dict[str, Any]:
    (found,) = (line for line in answer.lines if line["type"] == "plan")
    assert isinstance(found, dict)
    return found


def test_the_plan_shows_the_bill(run: Callable[..., Answer]) -> None:
    text = run("plan").ok().out
    for words in ("storage a month now", "early deletion", "originals held in their grace period", "net in 1,095 days"):
        assert words in text
    plan = plan_of(run("plan", "--json").ok())
    assert plan["files"] == 3
    assert plan["bill"]["net"] > 0
    assert plan["bill"]["net"] == pytest.approx(plan["summary"]["money"]["saved"] - plan["bill"]["cost"])


def test_what_does_not_pay_is_left_alone_and_counted(run: Callable[..., Answer]) -> None:
    answer = run("plan", "--json", prices={"decode": 2.0})  # a fifth of a cent an image: only the large one is worth it
    plan = plan_of(answer.ok())
    acts = [line["path"] for line in answer.lines if line["type"] == "act"]
    assert [path.rpartition("/")[2] for path in acts] == ["large.jpg"]
    assert plan["summary"]["skipped"] == {"costs more than it saves": 2}
    assert plan["summary"]["declined"]["objects"] == 2
    assert "2 images are left alone because they would cost" in run("plan", prices={"decode": 2.0}).out


def test_a_plan_of_which_nothing_pays_is_refused(run: Callable[..., Answer], bucket: Bucket) -> None:
    dear = {"decode": 500.0}
    answer = run("plan", prices=dear)
    assert answer.code == 1
    assert "the plan for tier bucket costs more than it saves" in answer.err
    assert "hint:" in answer.err
    archived = run("archive", "bucket", "--json", prices=dear)
    assert archived.code == 1
    outcome = archived.lines[0]
    assert (outcome["result"], outcome["error"]["error"]) == ("refused", "PlanCostsMore")
    keys = bucket.keys()
    assert not [key for key in keys if "holding" in key or "packs" in key]


def test_a_class_that_punishes_early_deletion_is_not_worth_it_before_its_time(run: Callable[..., Answer]) -> None:
    cold = {"storage_class": "COLD"}
    soon = {"horizon": "60d"}
    assert run("plan", tier=cold, prices=soon).code == 1  # sixty days of savings, ninety days of fee
    assert run("plan", tier=cold).code == 0


def test_records_that_cost_more_than_releases_save_are_refused_before_anything_is_done(
    run: Callable[..., Answer],
) -> None:
    record = {"action": "record"}
    answer = run("plan", rule=record)
    assert answer.code == 1
    outcomes = run("archive", "--json", rule=record).lines
    assert [one.get("error", {}).get("error") for one in outcomes if one["type"] == "outcome"] == ["PlanCostsMore"]
    assert run("plan", rule=record, prices={"refuse": False}).code == 0


def test_prices_may_only_be_shown(run: Callable[..., Answer]) -> None:
    plan = plan_of(run("plan", "--json", prices={"decode": 500.0, "refuse": False}).ok())
    assert plan["files"] == 3
    assert plan["bill"]["net"] < 0


def test_without_prices_there_is_not_a_word_of_money(run: Callable[..., Answer]) -> None:
    answer = run("plan", tier={"prices": ""}).ok()
    assert "USD" not in answer.out
    assert plan_of(run("plan", "--json", tier={"prices": ""}))["bill"] is None


def test_a_class_without_a_price_stops_the_plan(run: Callable[..., Answer]) -> None:
    answer = run("plan", "--json", tier={"storage_class": "GLACIER"})
    assert answer.code == 2
    assert json.loads(answer.err.splitlines()[-1])["error"] == "PriceUnknown"
