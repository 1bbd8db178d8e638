"""One bucket through its whole life, and what its readers see of it: archived, recalled, undone, by the real thing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from archiver.catalog.schema import upgrade
from archiver.config import RuleSettings, Settings
from archiver.config_text import render
from tests.cli.installation import call
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import LAX_GATE, photograph, random_vault  # noqa: F401  a fixture
from tests.s3.gateway_world import configuration, running

FACTS = ("ETag", "ContentLength", "ContentType", "LastModified", "Metadata")


@pytest.fixture
def vault(random_vault: Path) -> Path:  # noqa: F811
    return random_vault


def original(seed: int) -> bytes:
    buffer = io.BytesIO()
    photograph(seed).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def rules(scheme: str) -> tuple[RuleSettings, ...]:
    cold = {"name": "cold", "scheme": scheme, "min_size": 0, "unused_for": "0s", "unchanged_for": "0s"}
    return (RuleSettings.model_validate({**cold, "gate": LAX_GATE}),)


def prepared(bucket: Bucket, vault: Path, folder: Path, scheme: str, records: str) -> Settings:
    """A configuration and a catalog for a bucket with two photographs below one prefix."""
    for number in (1, 2):
        given = {"ContentType": "image/jpeg", "CacheControl": "max-age=60", "Metadata": {"album": "rome"}}
        bucket.put(f"photos/{number}.jpg", original(number), **given)
    tier = bucket.settings(prefix="photos/", records=records)
    settings = configuration(folder, vault, bucket).model_copy(update={"tier": (tier,), "rule": rules(scheme)})
    upgrade(settings.catalog_url)
    (folder / "config.toml").write_text(render(settings))
    return settings


def facts(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer.get(name) for name in FACTS}


@pytest.mark.parametrize("records", ["in-place", "packed"])
def test_readers_see_one_object_through_release_recall_and_undo(
    bucket: Bucket, vault: Path, tmp_path: Path, records: str
) -> None:
    settings = prepared(bucket, vault, tmp_path, "sgc", records)
    before = bucket.client.head_object(Bucket=bucket.name, Key="photos/1.jpg")
    key = {"Bucket": bucket.name, "Key": "photos/1.jpg"}
    url = f"s3://{bucket.name}/photos/1.jpg"

    def run(*arguments: str) -> None:
        call("--config", tmp_path / "config.toml", *arguments).ok()

    with running(settings, tmp_path) as gateway:
        client = gateway.client()
        assert client.get_object(**key)["Body"].read() == original(1)
        run("scan")
        run("archive")
        released = client.get_object(**key)
        image = released["Body"].read()
        assert facts(released) == facts(before)
        assert image != original(1)
        with Image.open(io.BytesIO(image)) as picture:
            picture.load()
            assert picture.size == (640, 480)
        run("recall", url)
        recalled = client.get_object(**key)
        assert recalled["Body"].read() == image  # the gateway generated what the recall did
        assert facts(recalled) == facts(before)
        run("undo", url)
        undone = client.get_object(**key)
        assert undone["Body"].read() == original(1)
        assert "x-archiver-synthetic" not in undone["ResponseMetadata"]["HTTPHeaders"]
        assert gateway.generated == 1


@pytest.mark.parametrize("records", ["in-place", "packed"])
def test_what_is_kept_without_loss_comes_back_unlabelled_byte_for_byte(
    bucket: Bucket, vault: Path, tmp_path: Path, records: str
) -> None:
    pytest.importorskip("imagecodecs")
    settings = prepared(bucket, vault, tmp_path, "lossless", records)
    for verb in ("scan", "archive"):
        call("--config", tmp_path / "config.toml", verb).ok()
    with running(settings, tmp_path) as gateway:
        client = gateway.client()
        head = client.head_object(Bucket=bucket.name, Key="photos/1.jpg")
        answer = client.get_object(Bucket=bucket.name, Key="photos/1.jpg")
        assert answer["Body"].read() == original(1)
        for one in (head, answer):
            assert "x-archiver-synthetic" not in one["ResponseMetadata"]["HTTPHeaders"]
    if records == "in-place":
        assert len(bucket.get("photos/1.jpg")) < len(original(1))
