"""What people type: `s3://bucket/key` wherever a path can be named, and the daemon's jobs on buckets."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from archiver.catalog.rows import State
from archiver.cli.main import cli
from archiver.daemon import _Jobs
from archiver.formats import Kind
from archiver.steady import Steadiness
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import random_vault
from tests.s3.world import World, make_world

__all__ = ["random_vault"]


@pytest.fixture
def world(tmp_path: Path, bucket: Bucket, random_vault: Path) -> World:
    return make_world(tmp_path, bucket, random_vault)


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    """The settings as an administrator writes them."""
    tier = world.tier
    text = f"""
        [catalog]
        url = "{world.settings.catalog_url}"
        [vault]
        path = "{world.settings.vault.path}"
        [model]
        profile = "random-7"
        preset = "draft"
        [[tier]]
        name = "bucket"
        kind = "s3"
        bucket = "{tier.bucket}"
        prefix = "{tier.prefix}"
        endpoint = "{tier.endpoint}"
        [[rule]]
        name = "all"
        min_size = 0
        unused_for = "0s"
        unchanged_for = "0s"
        gate = {{ semantic = -1.0, label_bce = "none", colour = "none" }}
        """
    tomllib.loads(text)
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_every_verb_takes_the_url_of_an_object(world: World, config: Path, tmp_path: Path) -> None:
    key = "2019/a.jpg"
    url = str(world.url(key))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(
            cli,
            [*arguments, "--config", str(config)],
            env={"COLUMNS": "200"},  # a name that is wrapped is not found
            catch_exceptions=False,
            standalone_mode=False,
        )
        assert result.return_value in (0, None), result.output
        return result.stdout

    run("db", "upgrade")
    run("scan")
    assert url in run("plan", "-v")
    assert "would be" in run("plan", "--explain", url) or url in run("plan", "--explain", url)
    run("pin", url)
    assert url in run("pins")
    run("unpin", url)

    run("archive", url)
    assert world.stands(key) is Kind.PLACEHOLDER
    assert world.stands("wide.webp") is None
    assert json.loads(run("status", url, "--json"))["path"] == url
    assert "released" in run("status", url)
    assert json.loads(run("status", str(world.url("2019")), "--json"))["path"] == str(world.url("2019"))
    run("record", "show", url)
    run("recall", str(world.url("2019/")))
    assert world.stands(key) is Kind.GENERATED
    assert "recalled" in run("audit", url)
    run("verify")
    run("undo", url, "--to", str(tmp_path))
    assert (tmp_path / "a.jpg").read_bytes() == world.originals[key]
    run("undo", url)
    assert world.stands(key) is None
    run("reconcile")
    run("expire")
    run("rebuild")
    assert "s3://" in run("config", "check")


def test_the_daemons_jobs_act_on_buckets_too(world: World) -> None:
    with world.site(scanned=False) as site:
        jobs = _Jobs(site, Steadiness())
        jobs.scan()
        jobs.archive()
        assert set(world.states(site).values()) == {State.RELEASED}
        jobs.verify()
        jobs.expire()
        assert not site.catalog.setting("verify.position") or site.catalog.setting("verify.position") == "0"
    assert {world.stands(key) for key in world.originals} == {Kind.PLACEHOLDER}
