"""A tier is archived with one catalog: another one on the same tier, knowing nothing of what the first has promised,
releases nothing there and deletes no original, until somebody says that the first is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archiver.catalog.rows import Act, State
from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.errors import TierOfAnotherCatalog
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from tests.lifecycle.conftest import make_settings, row_of, scan_all

GRACE, SHORTER = timedelta(days=30), "1h"


@contextmanager
def another(state: Path, settings: Settings) -> Iterator[Site]:
    """A second installation on the same tier, with a catalog of its own and a shorter grace period."""
    state.mkdir(exist_ok=True)
    second = make_settings(state, Path(settings.tier[0].root), settings.vault.path, grace=SHORTER)
    upgrade(second.catalog_url)
    with open_site(second) as site:
        scan_all(site)
        yield site


def held(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".archiver" / "holding").iterdir())


def after(span: timedelta) -> datetime:
    return datetime.now(UTC) + span


def test_another_catalog_deletes_nothing_that_the_first_still_holds(
    site: Site, settings: Settings, tier_root: Path, tmp_path: Path
) -> None:
    wide = tier_root / "wide.jpg"
    archive(site, paths=[wide])
    promised = held(tier_root)
    with another(tmp_path / "second", settings) as second:
        (tier,) = second.local_tiers
        assert second.keeper(tier).adopt(row_of(second, wide)).result is Result.DONE
        outcomes: list[Outcome] = []
        tally = expire(second, after(timedelta(hours=2)), listener=outcomes.append)
        assert tally.count("expire", Result.REFUSED) == 1
        assert [type(outcome.error) for outcome in outcomes] == [TierOfAnotherCatalog]
    assert held(tier_root) == promised
    assert expire(site, after(GRACE + timedelta(hours=1))).count("expire", Result.DONE) == 1


def test_another_catalog_releases_nothing(site: Site, settings: Settings, tier_root: Path, tmp_path: Path) -> None:
    archive(site, paths=[tier_root / "wide.jpg"])
    with another(tmp_path / "second", settings) as second:
        outcomes: list[Outcome] = []
        assert archive(second, listener=outcomes.append).exit_code == 1
        assert [(outcome.path, type(outcome.error)) for outcome in outcomes] == [(tier_root, TierOfAnotherCatalog)]
        with pytest.raises(TierOfAnotherCatalog):
            archive(second, paths=[tier_root / "2019"])
        assert row_of(second, tier_root / "2019/a.jpg").state is State.RESIDENT
    assert archive(site).count("release", Result.DONE) == 7, "and the first goes on"


def test_a_catalog_that_was_lost_is_replaced_by_rebuilding(
    site: Site, settings: Settings, tier_root: Path, tmp_path: Path
) -> None:
    wide = tier_root / "wide.jpg"
    original = wide.read_bytes()
    archive(site, paths=[wide])
    with another(tmp_path / "second", settings) as second:
        assert rebuild(second).count("adopt", Result.DONE) == 1
        told = [row.detail for row in second.catalog.audit_rows() if row.act is Act.ACCEPTED]
        assert told == ["it was another catalog's"]
        assert archive(second, paths=[tier_root / "2019"]).count("release", Result.DONE) == 7
        assert undo(second, [wide]).count("undo", Result.DONE) == 1
        rebuild(second)
        assert len([row for row in second.catalog.audit_rows() if row.act is Act.ACCEPTED]) == 1
    assert wide.read_bytes() == original
    with pytest.raises(TierOfAnotherCatalog):
        archive(site, paths=[tier_root])


def test_a_catalog_from_a_backup_is_the_same_one(
    site: Site, settings: Settings, tier_root: Path, tmp_path: Path
) -> None:
    archive(site, paths=[tier_root / "wide.jpg"])
    site.catalog.dispose()
    (tmp_path / "restored").mkdir()
    for file in tmp_path.glob("catalog.db*"):
        shutil.copy(file, tmp_path / "restored")
    restored = settings.model_copy(
        update={"catalog": settings.catalog.model_copy(update={"url": f"sqlite:///{tmp_path}/restored/catalog.db"})}
    )
    with open_site(restored) as again:
        assert archive(again, paths=[tier_root / "2019"]).count("release", Result.DONE) == 7


def test_of_two_catalogs_that_begin_at_once_one_has_the_tier(
    site: Site, settings: Settings, tier_root: Path, tmp_path: Path
) -> None:
    (tier,) = site.local_tiers
    with another(tmp_path / "second", settings) as second:
        tier.own(second.catalog.identity())
        tier.own(site.catalog.identity())  # as if it had seen nobody there
        assert tier.owner() == second.catalog.identity()
        assert archive(site).count("release", Result.DONE) == 0
