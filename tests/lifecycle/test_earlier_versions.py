"""A file that was released, written over and released once more: the original of its first version is held on."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.config import Settings
from archiver.errors import FileModified
from archiver.lifecycle.archive import archive
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from tests.lifecycle.conftest import photograph, row_of, scan_all


@pytest.fixture(params=["sgc", "lossless"])
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    rules = [rule.model_copy(update={"scheme": request.param, "formats": ("jpeg",)}) for rule in settings.rule]
    return settings.model_copy(update={"rule": tuple(rules)})


@pytest.fixture
def first(site: Site, tier_root: Path) -> bytes:
    """The first version of wide.jpg, held; the second is released with nothing held."""
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    photograph(77).save(path, quality=90)
    scan_all(site)
    release = site.settings.release.model_copy(update={"grace": timedelta(0)})
    site.settings = site.settings.model_copy(update={"release": release})
    assert archive(site, paths=[path]).count("release", Result.DONE) == 1
    assert [held.size for held in site.catalog.holding_due(2**40)] == [len(original)]
    return original


def test_an_undo_puts_no_earlier_version_over_the_one_that_was_released_last(
    site: Site, tier_root: Path, first: bytes, tmp_path: Path
) -> None:
    path, outcomes = tier_root / "wide.jpg", list[Outcome]()
    placeholder = path.read_bytes()
    undo(site, [path], listener=outcomes.append)
    assert [type(outcome.error) for outcome in outcomes] == [FileModified]
    assert (path.read_bytes(), row_of(site, path).state) == (placeholder, State.RELEASED)
    path.unlink()
    scan_all(site)
    assert undo(site, [path]).count("undo", Result.FAILED) == 1
    assert undo(site, [path], to=tmp_path).count("undo", Result.DONE) == 1
    assert (tmp_path / "wide.jpg").read_bytes() == first


def test_a_recall_leaves_the_original_of_an_earlier_version_held(site: Site, tier_root: Path, first: bytes) -> None:
    path = tier_root / "wide.jpg"
    assert recall(site, [path]).count("recall", Result.DONE) == 1
    (name,) = os.listdir(tier_root / ".archiver" / "holding")
    assert (tier_root / ".archiver" / "holding" / name).read_bytes() == first
    assert [held.name for held in site.catalog.holding_due(2**40)] == [name]
