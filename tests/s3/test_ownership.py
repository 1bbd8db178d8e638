"""A bucket is archived with one catalog, as a folder is (tests/lifecycle/test_ownership.py)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archiver.catalog.rows import Act
from archiver.errors import TierOfAnotherCatalog
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.undo import undo
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import random_vault
from tests.s3.world import World, keeper, make_world

__all__ = ["random_vault"]


@pytest.fixture
def world(tmp_path: Path, bucket: Bucket, random_vault: Path) -> World:
    return make_world(tmp_path, bucket, random_vault)


@pytest.fixture
def second(world: World, tmp_path: Path) -> World:
    """A second installation on the same bucket, with a catalog of its own and a shorter grace period."""
    catalog = world.settings.catalog.model_copy(update={"url": f"sqlite:///{tmp_path}/second.db"})
    release = world.settings.release.model_copy(update={"grace": timedelta(hours=1)})
    return replace(world, settings=world.settings.model_copy(update={"catalog": catalog, "release": release}))


def test_another_catalog_deletes_and_releases_nothing(world: World, second: World) -> None:
    with world.site() as site:
        archive(site, paths=[world.url("2019/a.jpg")])
    copies = world.ours("holding")
    with second.site() as site:
        assert keeper(site).adopt(second.row(site, "2019/a.jpg")).result is Result.DONE
        outcomes: list[Outcome] = []
        expire(site, datetime.now(UTC) + timedelta(hours=2), listener=outcomes.append)
        assert {type(outcome.error) for outcome in outcomes} == {TierOfAnotherCatalog}
        assert archive(site, listener=outcomes.append).exit_code == 1
        assert {type(outcome.error) for outcome in outcomes} == {TierOfAnotherCatalog}
    assert world.ours("holding") == copies
    assert {key: world.get(key) for key in world.originals if key != "2019/a.jpg"} == {
        key: original for key, original in world.originals.items() if key != "2019/a.jpg"
    }


def test_rebuilding_makes_the_bucket_this_catalogs(world: World, second: World) -> None:
    with world.site() as site:
        archive(site)
    with second.site() as site:
        assert rebuild(site).count("adopt", Result.DONE) == len(world.originals)
        assert [row.act for row in site.catalog.audit_rows()].count(Act.ACCEPTED) == 1
        assert undo(site, [world.url()]).count("undo", Result.DONE) == len(world.originals)
        second.scan(site)
        assert archive(site).count("release", Result.DONE) == len(world.originals)
    with world.site() as site:
        archived = archive(site)
        assert archived.reasons == {"tier of another catalog": 1}, archived
