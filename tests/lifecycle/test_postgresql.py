"""The whole way round with the catalog in a real PostgreSQL server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_catalog import sql

from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.lifecycle.archive import archive
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import open_site
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
