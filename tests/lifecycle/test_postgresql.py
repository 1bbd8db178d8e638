"""The whole way round with the catalog in a real PostgreSQL server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_catalog import CUT, sql

from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.errors import CatalogUnavailable
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from tests.lifecycle.conftest import scan_all
from tests.lifecycle.dying import tracked_files

pytestmark = pytest.mark.postgresql


def test_a_tier_goes_all_the_way_round_and_its_catalog_is_rebuilt(
    postgresql_url: str,
    postgresql_server: Callable[[str], str],
    settings: Settings,
    tier_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    originals = {path: path.read_bytes() for path in tracked_files(tier_root)}
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", postgresql_url)
    upgrade(postgresql_url)
    with open_site(settings) as site:
        scan_all(site)
        assert archive(site).count("release", Result.DONE) == len(originals)
        assert verify(site).exit_code == 0
        assert recall(site, [tier_root]).count("recall", Result.DONE) == len(originals)
        assert archive(site, paths=[tier_root]).count("release", Result.DONE) == len(originals)
        assert site.catalog.recount(correct=False) == []
    sql(postgresql_server("postgres"), "DROP DATABASE IF EXISTS rebuilt", "CREATE DATABASE rebuilt")
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", postgresql_server("rebuilt"))
    upgrade(postgresql_server("rebuilt"))
    with open_site(settings) as site:
        assert rebuild(site).count("adopt", Result.DONE) == len(originals)
        assert undo(site, [tier_root]).count("undo", Result.DONE) == len(originals)
    assert {path: path.read_bytes() for path in originals} == originals
    assert not os.listdir(tier_root / ".archiver" / "holding")


def test_a_server_that_goes_in_the_middle_ends_the_run_and_loses_nothing(
    postgresql_url: str,
    postgresql_server: Callable[[str], str],
    settings: Settings,
    tier_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    originals = {path: path.read_bytes() for path in tracked_files(tier_root)}
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", postgresql_url)
    upgrade(postgresql_url)
    outcomes: list[Outcome] = []

    def unplug(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if [one.act for one in outcomes].count("release") == 1 and outcome.act == "release":
            sql(postgresql_server("postgres"), "ALTER DATABASE catalog ALLOW_CONNECTIONS false")
            sql(postgresql_server("postgres"), CUT)

    with open_site(settings) as site:
        scan_all(site)
        with pytest.raises(CatalogUnavailable):
            archive(site, listener=unplug)
    sql(postgresql_server("postgres"), "ALTER DATABASE catalog ALLOW_CONNECTIONS true")
    assert Result.REFUSED not in {outcome.result for outcome in outcomes}
    with open_site(settings) as site:
        assert archive(site).count("release", Result.DONE) == len(originals) - 1
        assert undo(site, [tier_root]).count("undo", Result.DONE) == len(originals)
    assert {path: path.read_bytes() for path in originals} == originals
