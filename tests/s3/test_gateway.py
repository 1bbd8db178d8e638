"""Readers of a bucket see the same objects before a release, after it and recalled, and nothing that is not theirs."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.fixtures_s3 import Bucket, Seaweed, new_bucket
from tests.lifecycle.conftest import random_vault  # noqa: F401  a fixture
from tests.s3.gateway_world import (
    KEY,
    SECRET,
    TOKEN,
    Gateway,
    Released,
    configuration,
    put_original,
    put_released,
    release_photographs,
    running,
)

FACTS = ("ETag", "ContentLength", "ContentType", "LastModified", "Metadata", "AcceptRanges")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, random_vault: Path) -> dict[str, Released]:  # noqa: F811
    return {one.key: one for one in release_photographs(tmp_path_factory.mktemp("released"), random_vault)}


@pytest.fixture(scope="module")
def shared(seaweed: Seaweed) -> Bucket:
    return new_bucket(seaweed.endpoint)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    random_vault: Path,  # noqa: F811
    shared: Bucket,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running(configuration(folder, random_vault, shared), folder) as one:
        yield one


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Any:
    return gateway.client()


def facts(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer.get(name) for name in FACTS}


def code(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


# -- the same objects --------------------------------------------------------------------------------------------------


def test_a_resident_object_is_passed_on_as_it_is(
    shared: Bucket, client: Any, images: dict[str, Released], gateway: Gateway
) -> None:
    image = images["2019/a.jpg"]
    direct = put_original(shared, image, "resident/a.jpg")
    answer = client.get_object(Bucket=shared.name, Key="resident/a.jpg")
    assert answer["Body"].read() == image.original
    assert facts(answer) == facts(direct)
    assert "x-archiver-synthetic" not in answer["ResponseMetadata"]["HTTPHeaders"]
    assert facts(client.head_object(Bucket=shared.name, Key="resident/a.jpg")) == facts(direct)


def test_every_format_is_shown_as_its_original_and_generated_at_its_length(
    shared: Bucket, client: Any, images: dict[str, Released]
) -> None:
    for image in images.values():
        before = put_released(shared, image)
        head = client.head_object(Bucket=shared.name, Key=image.key)
        answer = client.get_object(Bucket=shared.name, Key=image.key)
        body = answer["Body"].read()
        assert facts(head) == facts(answer) == facts(before), image.key
        assert head["ResponseMetadata"]["HTTPHeaders"]["x-archiver-synthetic"] == "trainedAlgorithmicMedia"
        assert len(body) == len(image.original)
        assert body != image.original
        with Image.open(io.BytesIO(body)) as picture, Image.open(io.BytesIO(image.original)) as was:
            picture.load()
            assert (picture.size, picture.format, picture.mode) == (was.size, was.format, was.mode)
            assert picture.getexif().get(0x010F) == was.getexif().get(0x010F)
        assert b"trainedAlgorithmicMedia" in body


def test_a_recalled_object_is_shown_as_its_original_too(
    shared: Bucket, client: Any, images: dict[str, Released]
) -> None:
    image = images["wide.jpg"]
    before = put_released(shared, image, "recalled.jpg")
    marks = shared.client.head_object(Bucket=shared.name, Key="recalled.jpg")["Metadata"]
    body = client.get_object(Bucket=shared.name, Key="recalled.jpg")["Body"].read()
    recalled = {**marks, "archiver-kind": "generated"}
    shared.put("recalled.jpg", body, ContentType=image.content_type, Metadata=recalled)
    answer = client.get_object(Bucket=shared.name, Key="recalled.jpg")
    assert answer["Body"].read() == body
    assert facts(answer) == facts(before)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-archiver-synthetic"] == "trainedAlgorithmicMedia"


def test_the_same_record_gives_the_same_bytes_again(
    shared: Bucket, client: Any, images: dict[str, Released], gateway: Gateway
) -> None:
    put_released(shared, images["2019/e.webp"], "again.webp")
    first = client.get_object(Bucket=shared.name, Key="again.webp")["Body"].read()
    made = gateway.generated
    assert client.get_object(Bucket=shared.name, Key="again.webp")["Body"].read() == first
    assert gateway.generated == made
    for file in gateway.cached:
        file.write_bytes(b"ARGC" + bytes(3000))  # a disk that forgot everything
    assert client.get_object(Bucket=shared.name, Key="again.webp")["Body"].read() == first
    assert gateway.generated == made + 1


def test_ranges_and_conditions_hold_for_generated_images(
    shared: Bucket, client: Any, images: dict[str, Released], gateway: Gateway
) -> None:
    for key, put in (("ranges/released.jpg", put_released), ("ranges/resident.jpg", put_original)):
        before = put(shared, images["2019/summer/c.jpeg"], key)
        whole = client.get_object(Bucket=shared.name, Key=key)["Body"].read()
        size = len(whole)
        for first, last in ((0, 0), (0, size - 1), (7, 4095), (4090, 4100), (size - 1, size - 1), (size - 5, size + 5)):
            part = client.get_object(Bucket=shared.name, Key=key, Range=f"bytes={first}-{last}")
            assert part["Body"].read() == whole[first : last + 1]
            assert part["ContentRange"] == f"bytes {first}-{min(last, size - 1)}/{size}"
            assert part["ETag"] == before["ETag"]
        assert client.get_object(Bucket=shared.name, Key=key, Range="bytes=-9")["Body"].read() == whole[-9:]
        with pytest.raises(ClientError) as error:
            client.get_object(Bucket=shared.name, Key=key, Range=f"bytes={size}-")
        assert code(error) == ("InvalidRange", 416)
        with pytest.raises(ClientError) as error:
            client.get_object(Bucket=shared.name, Key=key, IfMatch='"other"')
        assert code(error) == ("PreconditionFailed", 412)
        assert client.get_object(Bucket=shared.name, Key=key, IfMatch=before["ETag"])["Body"].read() == whole
        path = f"/{shared.name}/{key}"
        fresh = gateway.ask(path, If_None_Match=before["ETag"])
        assert (fresh.status, fresh.data, fresh.headers["ETag"]) == (304, b"", before["ETag"])
        fetched = gateway.ask(path)
        assert gateway.ask(path, If_Modified_Since=fetched.headers["Last-Modified"]).status == 304
        resumed = gateway.ask(path, Range="bytes=100-", If_Range=fetched.headers["ETag"])
        assert (resumed.status, resumed.data) == (206, whole[100:])
        several = gateway.ask(path, Range="bytes=0-9,20-29")
        assert (several.status, several.data) == (200, whole)


@pytest.fixture(scope="module")
def wholes(shared: Bucket, gateway: Gateway, images: dict[str, Released]) -> dict[str, bytes]:
    """The path of a resident and of a released image, and what is read there."""
    put_original(shared, images["2019/e.webp"], "whole/resident.webp")
    put_released(shared, images["2019/e.webp"], "whole/released.webp")
    paths = (f"/{shared.name}/whole/{name}.webp" for name in ("resident", "released"))
    return {path: gateway.ask(path).data for path in paths}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_range_is_that_part_of_the_whole(gateway: Gateway, wholes: dict[str, bytes], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(wholes)))
    whole = wholes[path]
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.one_of(st.none(), st.integers(first, len(whole) + 1000)))
    answer = gateway.ask(path, Range=f"bytes={first}-{'' if last is None else last}")
    assert answer.status == 206
    assert answer.data == (whole[first:] if last is None else whole[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(answer.data) - 1}/{len(whole)}"


def test_fifty_readers_of_one_image_wait_for_one_decode(
    shared: Bucket, gateway: Gateway, images: dict[str, Released]
) -> None:
    put_released(shared, images["2019/d.png"], "popular.png")
    made = gateway.generated
    client = gateway.client()
    with ThreadPoolExecutor(50) as readers:
        bodies = set(
            readers.map(lambda _: client.get_object(Bucket=shared.name, Key="popular.png")["Body"].read(), range(50))
        )
    assert len(bodies) == 1
    assert gateway.generated == made + 1


def test_an_object_that_changes_is_seen_as_it_is_then(shared: Bucket, client: Any, images: dict[str, Released]) -> None:
    put_released(shared, images["2019/a.jpg"], "edited.jpg")
    client.get_object(Bucket=shared.name, Key="edited.jpg")["Body"].read()
    etag = shared.put("edited.jpg", b"a new original")
    answer = client.get_object(Bucket=shared.name, Key="edited.jpg")
    assert (answer["Body"].read(), answer["ETag"]) == (b"a new original", f'"{etag}"')


def test_large_and_empty_objects_are_passed_on(shared: Bucket, client: Any, gateway: Gateway) -> None:
    large = bytes(range(256)) * 40_000
    shared.put("large.bin", large)
    shared.put("empty.bin", b"")
    shared.put("with spaces & ümlaut+plus.txt", b"odd")
    assert client.get_object(Bucket=shared.name, Key="large.bin")["Body"].read() == large
    buffer = io.BytesIO()
    client.download_fileobj(shared.name, "large.bin", buffer)  # in parts, several at a time
    assert buffer.getvalue() == large
    assert client.get_object(Bucket=shared.name, Key="empty.bin")["Body"].read() == b""
    assert client.get_object(Bucket=shared.name, Key="with spaces & ümlaut+plus.txt")["Body"].read() == b"odd"


def test_listings_have_the_sizes_and_tags_of_the_originals(
    shared: Bucket, client: Any, images: dict[str, Released]
) -> None:
    before = put_released(shared, images["wide.jpg"], "list/in/released.jpg")
    put_original(shared, images["wide.jpg"], "list/resident.jpg")
    shared.put(".archiver/holding/secret", b"an original")
    page = client.list_objects_v2(Bucket=shared.name, Prefix="list/")
    entries = {entry["Key"]: entry for entry in page["Contents"]}
    assert list(entries) == ["list/in/released.jpg", "list/resident.jpg"]
    released = entries["list/in/released.jpg"]
    assert (released["Size"], released["ETag"]) == (len(images["wide.jpg"].original), before["ETag"])
    assert released["LastModified"] == before["LastModified"]
    folders = client.list_objects_v2(Bucket=shared.name, Prefix="list/", Delimiter="/")
    assert [one["Prefix"] for one in folders["CommonPrefixes"]] == ["list/in/"]
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=shared.name, PaginationConfig={"PageSize": 3})
    listed = [entry["Key"] for one in pages for entry in one.get("Contents", ())]
    everything = shared.keys()
    assert listed == [key for key in everything if not key.startswith(".archiver/")]


# -- other clients -----------------------------------------------------------------------------------------------------


def test_curl_signs_resumes_and_follows_a_presigned_url(
    shared: Bucket, client: Any, gateway: Gateway, images: dict[str, Released], tmp_path: Path
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    put_released(shared, images["2019/b.JPG"], "curl.jpg")
    url = f"{gateway.address}/{shared.name}/curl.jpg"
    whole = client.get_object(Bucket=shared.name, Key="curl.jpg")["Body"].read()

    def run(*arguments: str) -> bytes:
        done = subprocess.run([curl, "-sS", "--fail", *arguments], capture_output=True, check=True)
        return done.stdout

    assert run("--aws-sigv4", "aws:amz:eu-central-1:s3", "--user", f"{KEY}:{SECRET}", url) == whole
    presigned = client.generate_presigned_url("get_object", {"Bucket": shared.name, "Key": "curl.jpg"}, ExpiresIn=60)
    assert run(presigned) == whole
    part = tmp_path / "part.jpg"
    part.write_bytes(whole[:5000])
    run("-H", f"Authorization: Bearer {TOKEN}", "-C", "-", "-o", str(part), url)
    assert part.read_bytes() == whole
    head = run("-I", "-H", f"Authorization: Bearer {TOKEN}", url).decode()
    assert f"content-length: {len(whole)}" in head.lower()


def test_pythons_own_client_reads_a_presigned_url(
    shared: Bucket, client: Any, gateway: Gateway, images: dict[str, Released]
) -> None:
    put_released(shared, images["2019/f.tif"], "python.tif")
    asked = {"Bucket": shared.name, "Key": "python.tif", "ResponseContentDisposition": 'attachment; filename="x.tif"'}
    url = client.generate_presigned_url("get_object", asked, ExpiresIn=60)
    code = (
        "import sys, urllib.request as r; a = r.urlopen(sys.argv[1]); print(a.headers['Content-Disposition']); a.read()"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout == 'attachment; filename="x.tif"\n'


# -- what nobody gets --------------------------------------------------------------------------------------------------


def test_nobody_reads_without_key_or_token(shared: Bucket, gateway: Gateway, client: Any) -> None:
    shared.put("private.txt", b"private")
    path = f"/{shared.name}/private.txt"
    assert gateway.ask(path, token=None).status == 403
    assert gateway.ask(path, token="another-token-of-somebody").status == 403
    assert gateway.ask(path).data == b"private"
    with pytest.raises(ClientError) as error:
        gateway.client(secret="another-secret-of-somebody").get_object(Bucket=shared.name, Key="private.txt")
    assert code(error) == ("SignatureDoesNotMatch", 403)
    stranger = boto3.client("s3", endpoint_url=gateway.address, region_name="us-east-1", aws_access_key_id="NOBODY",
                            aws_secret_access_key=SECRET, config=Config(retries={"total_max_attempts": 1}))  # fmt: skip
    with pytest.raises(ClientError) as error:
        stranger.list_objects_v2(Bucket=shared.name)
    assert code(error) == ("InvalidAccessKeyId", 403)


def test_nothing_of_ours_or_of_other_buckets_is_served(shared: Bucket, gateway: Gateway, client: Any) -> None:
    shared.put(".archiver/holding/1-2", b"an original in its grace period")
    for key in (".archiver/holding/1-2", ".archiver/tier.json", ".archiver", "none.jpg"):
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=shared.name, Key=key)
    with pytest.raises(client.exceptions.NoSuchBucket):
        client.get_object(Bucket="ready", Key="ready")
    for path in (
        "/../etc/passwd",
        f"/{shared.name}/../ready/ready",
        f"/{shared.name}/%2e%2e/ready/ready",
        "//ready/ready",
        # What SeaweedFS takes for the same key:
        f"/{shared.name}//.archiver/holding/1-2",
        f"/{shared.name}/%2f.archiver/holding/1-2",
        f"/{shared.name}/.archiver%5cholding/1-2",
        f"/{shared.name}/x%5c..%5c.archiver/holding/1-2",
    ):
        assert gateway.ask(path).status == 404, path
    assert gateway.ask(f"/{shared.name}/%ff").status == 400
    assert gateway.ask(f"/{shared.name}/{'k' * 2000}").status == 400


def test_nothing_can_be_written(shared: Bucket, gateway: Gateway, client: Any) -> None:
    shared.put("kept.txt", b"kept")
    for write in (
        lambda: client.put_object(Bucket=shared.name, Key="new.txt", Body=b"x"),
        lambda: client.delete_object(Bucket=shared.name, Key="kept.txt"),
        lambda: client.copy_object(Bucket=shared.name, Key="new.txt", CopySource=f"{shared.name}/kept.txt"),
        lambda: client.delete_bucket(Bucket=shared.name),
    ):
        with pytest.raises(ClientError) as error:
            write()
        assert code(error) == ("MethodNotAllowed", 405)
    assert shared.get("kept.txt") == b"kept"
    left = shared.keys()
    assert "new.txt" not in left


def test_parts_of_s3_that_a_reader_does_not_need_say_so(shared: Bucket, client: Any) -> None:
    shared.put("plain.txt", b"plain")
    for call in (
        lambda: client.get_object_acl(Bucket=shared.name, Key="plain.txt"),
        lambda: client.get_object(Bucket=shared.name, Key="plain.txt", VersionId="x"),
        lambda: client.list_objects(Bucket=shared.name),
        lambda: client.list_buckets(),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code(error) == ("NotImplemented", 501)


def test_a_placeholder_that_is_damaged_is_no_image(shared: Bucket, client: Any, images: dict[str, Released]) -> None:
    image = images["wide.jpg"]
    put_released(shared, image, "damaged.jpg")
    marks = shared.client.head_object(Bucket=shared.name, Key="damaged.jpg")["Metadata"]
    at = image.placeholder.index(b"ARCV") + 40
    broken = image.placeholder[:at] + bytes([image.placeholder[at] ^ 1]) + image.placeholder[at + 1 :]
    shared.put("damaged.jpg", broken, Metadata=marks)
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=shared.name, Key="damaged.jpg")
    assert code(error) == ("InternalError", 500)
    shared.put("damaged.jpg", image.placeholder, Metadata={"archiver-kind": "placeholder"})
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=shared.name, Key="damaged.jpg")
    assert code(error) == ("InternalError", 500)
