"""A gateway that is killed, has too much to do, or loses its server: nobody gets half an image, or waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import cast

import pytest
import trustme
import urllib3

from archiver import formats
from archiver.catalog import Catalog
from archiver.catalog.schema import upgrade
from archiver.decoder.engine import Engine
from archiver.errors import (
    CacheTaken,
    CannotListen,
    ConfigInvalid,
    GatewayUnguarded,
    GatewayWithoutTier,
    PlaceholderDamaged,
)
from archiver.formats import Limits
from archiver.formats.envelope import seal
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.rebuild import rebuild
from archiver.s3.packs import Packed, Packs
from archiver.s3.regenerate import generate
from archiver.s3.scan import scan_bucket
from archiver.s3.serving import serve
from archiver.s3.tier import S3Tier
from tests.access.watching import until
from tests.fixtures_s3 import Bucket, Seaweed
from tests.lifecycle.conftest import random_vault  # noqa: F401  a fixture
from tests.s3.gateway_world import (
    TOKEN,
    Gateway,
    Released,
    configuration,
    put_original,
    put_released,
    release_photographs,
    running,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, random_vault: Path) -> dict[str, Released]:  # noqa: F811
    return {one.key: one for one in release_photographs(tmp_path_factory.mktemp("released"), random_vault)}


@pytest.fixture
def vault(random_vault: Path) -> Path:  # noqa: F811
    return random_vault


def names_of(gateway: Gateway) -> Iterator[str]:
    return (path.name for path in gateway.cached)


def test_a_gateway_killed_in_the_middle_begins_anew_and_gives_whole_images(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    image = images["2019/a.jpg"]
    keys = [f"{number}.jpg" for number in range(6)]
    for key in keys:
        put_released(bucket, image, key)
    settings = configuration(tmp_path, vault, bucket, concurrent=1)

    def read(gateway: Gateway, key: str) -> bytes | None:
        try:
            answer = gateway.ask(f"/{bucket.name}/{key}")
        except urllib3.exceptions.HTTPError:
            return None
        return bytes(answer.data) if answer.status == 200 else None

    with running(settings, tmp_path) as gateway, ThreadPoolExecutor(len(keys)) as readers:
        answers = [readers.submit(read, gateway, key) for key in keys]
        until(lambda: gateway.generated > 0 or gateway.process.poll() is not None, patience=120)
        assert gateway.process.poll() is None
        gateway.kill()
        cut_off = [answer.result() for answer in answers]
    assert None in cut_off
    with running(settings, tmp_path) as gateway:
        bodies = {read(gateway, key) for key in keys}
        assert len(bodies) == 1  # the same record, the same bytes
        assert {body for body in cut_off if body is not None} <= bodies
        (body,) = bodies
        assert body is not None and len(body) == len(image.original)
        assert not [name for name in names_of(gateway) if name.endswith(".new")]


def test_the_cache_stays_within_its_limit(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    image = images["wide.jpg"]
    limit = 3 * len(image.original)
    settings = configuration(tmp_path, vault, bucket, cache_size=limit)
    with running(settings, tmp_path) as gateway:
        for number in range(5):
            put_released(bucket, image, f"{number}.jpg")
            assert gateway.ask(f"/{bucket.name}/{number}.jpg").status == 200
            assert sum(path.stat().st_size for path in gateway.cached) <= limit
        assert gateway.generated == 5
        assert gateway.ask(f"/{bucket.name}/4.jpg").status == 200
        assert gateway.generated == 5
        assert gateway.ask(f"/{bucket.name}/0.jpg").status == 200
        assert gateway.generated == 6


def test_who_comes_when_all_places_are_taken_is_told_to_come_back(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    keys = [f"{number}.jpg" for number in range(8)]
    for key in keys:
        put_released(bucket, images["2019/a.jpg"], key)
    settings = configuration(tmp_path, vault, bucket, concurrent=1, waiting=1)
    with running(settings, tmp_path) as gateway, ThreadPoolExecutor(len(keys)) as readers:
        answers = list(readers.map(lambda key: gateway.ask(f"/{bucket.name}/{key}"), keys))
        refused = [answer for answer in answers if answer.status == 503]
        assert refused
        assert len(refused) < len(keys)
        for answer in refused:
            assert b"<Code>SlowDown</Code>" in answer.data
            assert int(answer.headers["Retry-After"]) >= 1
        # With boto3's own retries nobody notices.
        assert gateway.ask(f"/{bucket.name}/{keys[-1]}").status == 200


class NoEngine:
    def generate(self, *_: object, **__: object) -> object:
        raise AssertionError("something is generated")


def forged(image: Released) -> bytes:
    """A placeholder as anybody who may write to the bucket can make it, for 30 GB."""
    envelope = formats.read_envelope(BytesIO(image.placeholder))
    assert envelope is not None
    claimed = replace(envelope, source=replace(envelope.source, length=30 * 10**9))
    data = image.placeholder.replace(seal(envelope), seal(claimed))
    assert formats.read_envelope(BytesIO(data)) == claimed
    return data


def test_a_placeholder_that_claims_more_than_an_original_may_have_takes_no_memory(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    data = forged(images["2019/a.jpg"])
    with pytest.raises(PlaceholderDamaged, match="more than"):
        generate(cast(Engine, NoEngine()), data, Limits(), "s3://b/forged.jpg")
    bucket.put("forged.jpg", data)
    settings = configuration(tmp_path, vault, bucket)
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan_bucket(site.catalog, cast(S3Tier, site.tiers[bucket.settings().name]))
        assert rebuild(site).count("adopt", Result.FAILED) == 1


def test_a_reader_waits_no_longer_than_the_deadline_and_finds_the_image_made(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    put_released(bucket, images["2019/a.jpg"], "slow.jpg")
    settings = configuration(tmp_path, vault, bucket, deadline="1s")
    with running(settings, tmp_path) as gateway:
        # The first decode loads the networks; whether that takes a second is the machine's affair.
        statuses = []
        while not statuses or statuses[-1] != 200:
            assert len(statuses) < 60
            statuses.append(gateway.ask(f"/{bucket.name}/slow.jpg").status)
        assert set(statuses) <= {200, 503}


def test_a_server_that_is_away_is_no_missing_image(
    seaweed: Seaweed, bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    put_original(bucket, images["wide.jpg"], "resident.jpg")
    with running(configuration(tmp_path, vault, bucket), tmp_path) as gateway:
        path = f"/{bucket.name}/resident.jpg"
        assert gateway.ask(path).status == 200
        seaweed.stop()
        try:
            away = gateway.ask(path)
        finally:
            seaweed.start()
        assert (away.status, away.headers["Retry-After"]) == (503, "2")
        assert b"ServiceUnavailable" in away.data
        assert gateway.ask(path).data == images["wide.jpg"].original


def test_a_body_that_breaks_off_is_no_whole_one(seaweed: Seaweed, bucket: Bucket, vault: Path, tmp_path: Path) -> None:
    bucket.put("large.bin", bytes(64 << 20))  # more than the sockets on the way can hold
    with running(configuration(tmp_path, vault, bucket), tmp_path) as gateway, urllib3.PoolManager() as pool:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{gateway.address}/{bucket.name}/large.bin"
        answer = pool.request("GET", url, headers=headers, preload_content=False)
        answer.read(1000)
        assert seaweed.process is not None
        seaweed.process.kill()
        try:
            with pytest.raises(urllib3.exceptions.ProtocolError):
                answer.read()
        finally:
            seaweed.stop()
            seaweed.start()
        assert "Traceback" not in gateway.log.read_text()


def test_what_is_read_is_in_use(bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path) -> None:
    put_original(bucket, images["wide.jpg"], "used/a.jpg")
    put_original(bucket, images["wide.jpg"], "used/b.jpg")
    settings = configuration(tmp_path, vault, bucket)
    upgrade(settings.catalog_url)
    with Catalog.open(settings.catalog_url) as catalog:
        scanned_tier(catalog, settings.tier[0])
        tier_id = catalog.tiers()[0].id
        before = catalog.find(tier_id, "used/a.jpg")
        assert before is not None
        # The clock of a file's last use has whole seconds.
        until(lambda: time.time() >= before.accessed_at + 1)
        with running(settings, tmp_path) as gateway:
            assert gateway.ask(f"/{bucket.name}/used/a.jpg").status == 200
            assert gateway.ask(f"/{bucket.name}/used/b.jpg", method="HEAD").status == 200
        used, untouched = (catalog.find(tier_id, f"used/{name}.jpg") for name in "ab")
        assert used is not None and untouched is not None
        assert used.accessed_at > before.accessed_at
        assert untouched.accessed_at <= before.accessed_at + 1


def scanned_tier(catalog: Catalog, settings: object) -> S3Tier:
    tier = S3Tier(settings)  # type: ignore[arg-type]
    catalog.ensure_tier(tier.name, "s3", str(tier.url()))
    scan_bucket(catalog, tier)
    return tier


def test_packed_objects_are_found_by_key_without_an_object(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    image = images["2019/d.png"]
    before = put_released(bucket, image, "packed/a.png")
    tier = S3Tier(bucket.settings(records="packed"))
    info = tier.store.head("packed/a.png")
    packs = Packs(tier.store)
    packs.write(packs.new_key(), [Packed("packed/a.png", image.placeholder, info.dressing(), info.modified_ns)])
    bucket.delete("packed/a.png")
    given = configuration(tmp_path, vault, bucket)
    settings = given.model_copy(update={"tier": (bucket.settings(records="packed"),)})
    with running(settings, tmp_path) as gateway:
        client = gateway.client()
        head = client.head_object(Bucket=bucket.name, Key="packed/a.png")
        answer = client.get_object(Bucket=bucket.name, Key="packed/a.png")
        for found in (head, answer):
            for fact in ("ETag", "ContentLength", "ContentType", "LastModified", "Metadata"):
                assert found[fact] == before[fact], fact
        assert len(answer["Body"].read()) == len(image.original)
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=bucket.name, Key="packed/b.png")


def test_tls_is_spoken_where_there_is_a_certificate(
    bucket: Bucket, images: dict[str, Released], vault: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    put_original(bucket, images["wide.jpg"], "a.jpg")
    settings = configuration(tmp_path, vault, bucket, certificate_file=str(tmp_path / "own.pem"))
    with (
        running(settings, tmp_path) as gateway,
        urllib3.PoolManager(ca_certs=str(tmp_path / "ca.pem")) as pool,
    ):
        assert gateway.address.startswith("https://")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = pool.request("GET", f"{gateway.address}/{bucket.name}/a.jpg", headers=headers)
        assert answer.data == images["wide.jpg"].original


# -- what it does not begin with ---------------------------------------------------------------------------------------


def test_a_gateway_that_others_can_reach_needs_keys_or_a_token(bucket: Bucket, vault: Path, tmp_path: Path) -> None:
    nobody = {"keys_file": "none", "token_file": "none"}
    with pytest.raises(GatewayUnguarded, match=r"0\.0\.0\.0:0"):
        serve(configuration(tmp_path, vault, bucket, listen="0.0.0.0:0", **nobody), print)
    with running(configuration(tmp_path, vault, bucket, **nobody), tmp_path) as gateway:
        assert gateway.ask(f"/{bucket.name}/none", token=None).status == 404


def test_what_keeps_it_from_beginning_is_named(bucket: Bucket, vault: Path, tmp_path: Path) -> None:
    settings = configuration(tmp_path, vault, bucket)
    with pytest.raises(GatewayWithoutTier):
        serve(settings.model_copy(update={"tier": ()}), print)
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigInvalid, match="a token is one line"):
        serve(settings, print)
    (tmp_path / "token").write_text(TOKEN)
    with running(settings, tmp_path) as gateway:
        port = gateway.address.rpartition(":")[2]
        with pytest.raises(CacheTaken):
            serve(settings, print)
        with pytest.raises(CannotListen, match=port):
            serve(configuration(tmp_path, vault, bucket, listen=f"127.0.0.1:{port}"), print)
