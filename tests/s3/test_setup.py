"""Promises of the first steps with a bucket: a configuration that works, and a doctor that finds what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_s3 import Bucket

from archiver import doctor
from archiver.catalog import Catalog, schema
from archiver.checks import Check, Verdict
from archiver.config import S3TierSettings, Settings, parse
from archiver.errors import BucketUnreachable
from archiver.s3 import client
from archiver.s3.address import ObjectUrl
from archiver.s3.checkup import look_at
from archiver.s3.tier import S3Tier
from archiver.setup import starting_config
from archiver.tiers.scan import scan


def findings(settings: S3TierSettings, catalog: Catalog | None = None) -> dict[str, Check]:
    row = next(iter(catalog.tiers()), None) if catalog is not None else None
    return {check.finding: check for check in look_at(settings, row, None)}


def verdict_on(what: str, settings: S3TierSettings, catalog: Catalog | None = None) -> Verdict:
    found = findings(settings, catalog)
    (check,) = [check for finding, check in found.items() if what in finding]
    return check.verdict


def test_a_bucket_is_set_up_like_a_folder(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    places = [tmp_path / "photos", ObjectUrl(bucket.name, "phones/2019"), ObjectUrl(bucket.name, "photos/")]
    settings = parse(starting_config(places, tmp_path, bucket.endpoint), tmp_path)
    assert [(tier.name, tier.kind, tier.root) for tier in settings.tier] == [
        ("photos", "local", str(tmp_path / "photos")),
        ("2019", "s3", f"s3://{bucket.name}/phones/2019"),
        ("photos-2", "s3", f"s3://{bucket.name}/photos"),
    ]


@pytest.mark.parametrize("what", ["bucket", "server"])
def test_a_bucket_that_cannot_be_asked_is_not_set_up(
    what: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    place = ObjectUrl("nobody-made-this" if what == "bucket" else bucket.name, "")
    endpoint = bucket.endpoint if what == "bucket" else "http://127.0.0.1:1"
    with pytest.raises(BucketUnreachable):
        starting_config([place], tmp_path, endpoint)


def test_the_doctor_tells_what_a_bucket_can_do(
    bucket: Bucket, versioned_bucket: Bucket, make_bucket: Callable[..., Bucket], sqlite_catalog: Catalog
) -> None:
    assert verdict_on("answers at", bucket.settings()) is Verdict.OK
    assert verdict_on("conditional writes (If-Match), no versions", bucket.settings()) is Verdict.OK
    assert verdict_on("versions are kept", versioned_bucket.settings()) is Verdict.OK
    assert verdict_on('holding is "version"', bucket.settings(holding="version")) is Verdict.BROKEN
    assert verdict_on("Object Lock", make_bucket(lock=True).settings()) is Verdict.OK
    assert verdict_on("never scanned", bucket.settings(), sqlite_catalog) is Verdict.WARNING
    scan(sqlite_catalog, S3Tier(bucket.settings()))
    assert "never scanned" not in findings(bucket.settings(), sqlite_catalog)
    bucket.put(".archiver/journal/1", b"{}")
    assert verdict_on("1 journal entries", bucket.settings(), sqlite_catalog) is Verdict.WARNING
    keys = bucket.keys()
    assert keys == [".archiver/journal/1", ".archiver/tier.json"]


def test_the_doctor_finds_a_server_that_ignores_conditions(
    bucket: Bucket, versioned_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = client.connect

    def forget(params: dict[str, Any], **_: Any) -> None:
        params["headers"].pop("If-Match", None)

    def forgetful(*arguments: Any, **others: Any) -> Any:
        made = connect(*arguments, **others)
        made.meta.events.register("before-call.s3", forget)
        return made

    monkeypatch.setattr("archiver.s3.store.connect", forgetful)
    assert verdict_on("cannot write on condition", bucket.settings()) is Verdict.BROKEN
    assert verdict_on("no conditional writes", versioned_bucket.settings()) is Verdict.WARNING


def test_the_doctor_finds_another_bucket_in_the_tiers_place(bucket: Bucket, sqlite_catalog: Catalog) -> None:
    scan(sqlite_catalog, S3Tier(bucket.settings()))
    bucket.delete(".archiver/tier.json")
    with pytest.raises(BucketUnreachable, match="is it the right bucket"):
        findings(bucket.settings(), sqlite_catalog)


def test_where_there_are_buckets_alone_nobody_misses_the_service_that_lets_readers_wait(
    bucket: Bucket, tmp_path: Path
) -> None:
    recall = {"socket": str(tmp_path / "nobody.sock")}
    alone = Settings.model_validate({"recall": recall, "tier": [bucket.settings()]})
    assert [check.verdict for check in doctor._recall_service(alone)] == [Verdict.OK]
    local = {"name": "folder", "kind": "local", "path": str(tmp_path)}
    both = Settings.model_validate({"recall": recall, "tier": [bucket.settings(), local]})
    assert [check.verdict for check in doctor._recall_service(both)] == [Verdict.WARNING]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["scan"], 4),
        (["doctor"], 7),
        (["archive"], 7),
        (["s3", "listen", "--once"], 7),
        (["s3", "install-hook", "phones", "--dry-run"], 7),
        (["s3", "remove-hook", "phones", "--dry-run"], 7),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_whatever_needs_boto3_says_what_to_install(tmp_path: Path, words: list[str], code: int) -> None:
    config = tmp_path / "archiver.toml"
    config.write_text(
        f'[catalog]\nurl = "sqlite:///{tmp_path}/catalog.db"\n[vault]\npath = "{tmp_path}/vault"\n'
        '[[tier]]\nname = "phones"\nkind = "s3"\nbucket = "phones"\nendpoint = "http://127.0.0.1:1"\n'
    )
    schema.upgrade(f"sqlite:///{tmp_path}/catalog.db")
    program = "import sys; sys.modules.update(boto3=None, botocore=None); from archiver.cli.main import cli; cli()"
    command = [sys.executable, "-c", program, "--config", str(config), *words]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "pip install 'archiver[s3]'" in done.stdout + done.stderr
