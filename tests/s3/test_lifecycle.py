"""The promises of release, recall and undo, kept on objects of a real S3 server."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

import pytest

from archiver.catalog.rows import State
from archiver.errors import ObjectMarked
from archiver.formats import Kind
from archiver.lifecycle.archive import archive
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.recall import recall
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from archiver.s3.objects import ObjectInfo
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import random_vault
from tests.s3.world import World, keeper, make_world, picture

__all__ = ["random_vault"]


@pytest.fixture
def world(tmp_path: Path, bucket: Bucket, random_vault: Path) -> World:
    return make_world(tmp_path, bucket, random_vault)


@pytest.fixture(params=["plain", "versioned"])
def either(
    request: pytest.FixtureRequest, tmp_path: Path, make_bucket: Callable[..., Bucket], random_vault: Path
) -> World:
    return make_world(tmp_path, make_bucket(versioned=request.param == "versioned"), random_vault)


def test_an_object_goes_all_the_way_and_comes_back_byte_for_byte(either: World) -> None:
    world = either
    with world.site() as site:
        assert not archive(site).exit_code
        assert set(world.states(site).values()) == {State.RELEASED}
        for key, original in world.originals.items():
            assert world.stands(key) is Kind.PLACEHOLDER
            assert len(world.get(key)) < len(original) / 4

        assert not recall(site, [world.url()]).exit_code
        assert set(world.states(site).values()) == {State.RECALLED}
        for key, original in world.originals.items():
            assert world.stands(key) is Kind.GENERATED
            assert len(world.get(key)) == len(original)
            assert site.catalog.recalled_hash(world.row(site, key).id) == sha256(world.get(key)).digest()

        placeholders = archive(site)  # unmodified recalled ones become placeholders again: nothing is encoded twice
        assert placeholders.count("release", Result.DONE) == len(world.originals)
        assert placeholders.count("record", Result.DONE) == 0
        assert {world.stands(key) for key in world.originals} == {Kind.PLACEHOLDER}

        assert not undo(site, [world.url("2019"), world.url("wide.webp")]).exit_code
        assert set(world.states(site).values()) == {State.RECORDED}
        for key, original in world.originals.items():
            assert world.get(key) == original
        assert world.ours("holding") == [] and world.ours("journal") == []
        world.scan(site)
        assert set(world.states(site).values()) == {State.RECORDED}
        assert site.catalog.recount(correct=False) == []


def test_headers_metadata_and_tags_are_kept_all_the_way(
    tmp_path: Path, moto_bucket: Callable[..., Bucket], random_vault: Path
) -> None:
    def users(key: str) -> object:
        head = world.head(key)
        metadata = {name: value for name, value in head["Metadata"].items() if not name.startswith("archiver-")}
        return [head[name] for name in headers], metadata, world.tags(key)

    world = make_world(tmp_path, moto_bucket(), random_vault, most=2)
    headers = {
        "ContentType": "image/jpeg",
        "CacheControl": "max-age=3600",
        "ContentDisposition": 'attachment; filename="a b.jpg"',
        "ContentLanguage": "de",
        "WebsiteRedirectLocation": "/elsewhere.jpg",
    }
    for key, original in world.originals.items():
        tags = urlencode({"album": "summer", "place": "a+b =c"})
        metadata = {"photographer": "somebody"}
        expires = datetime(2030, 1, 1, tzinfo=UTC)
        world.bucket.put(f"photos/{key}", original, **headers, Expires=expires, Metadata=metadata, Tagging=tags)
    headers["ExpiresString"] = "Tue, 01 Jan 2030 00:00:00 GMT"
    before = {key: users(key) for key in world.originals}
    with world.site() as site:
        for act in (lambda: archive(site), lambda: recall(site, [world.url()]), lambda: undo(site, [world.url()])):
            assert not act().exit_code
            assert {key: users(key) for key in world.originals} == before
    assert not any(name.startswith("archiver-") for key in before for name in world.head(key)["Metadata"])


@pytest.mark.parametrize("times", [1, 2], ids=["once", "always"])
def test_what_arrives_otherwise_than_it_is_there_gets_no_record(
    either: World, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bent(key: str, **wanted: object) -> tuple[ObjectInfo, BinaryIO]:
        info, stream = fetch(key, **wanted)
        if key != "2019/a.jpg" or len(bent_ones) >= times:
            return info, stream
        with stream:
            body = bytearray(stream.read())
        bent_ones.append(key)
        body[-len(bent_ones) - 100] ^= 1  # each time another bit
        return info, BytesIO(body)

    world, bent_ones = either, list[str]()
    with world.site() as site:
        store = keeper(site).ground.store
        fetch = store.get
        monkeypatch.setattr(store, "get", bent)
        found = archive(site)
        assert found.reasons == {"bucket unreachable": 1}
        assert world.states(site).pop("2019/a.jpg") is State.RESIDENT
        assert world.get("2019/a.jpg") == world.originals["2019/a.jpg"]
        bent_ones += ["no more"] * times
        assert not archive(site).exit_code  # it was no fault of the file
        assert not undo(site, [world.url()]).exit_code
    assert {key: world.get(key) for key in world.originals} == world.originals


def test_an_etag_that_only_looks_like_a_hash_refuses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectInfo, "md5", property(lambda info: info.etag[::-1]))
    with world.site() as site:
        assert not archive(site).exit_code
        assert set(world.states(site).values()) == {State.RELEASED}


def test_tags_that_a_placeholder_was_given_are_kept_by_an_undo(world: World) -> None:
    key = "2019/a.jpg"
    with world.site() as site:
        archive(site)
        world.bucket.client.put_object_tagging(
            Bucket=world.bucket.name, Key=f"photos/{key}", Tagging={"TagSet": [{"Key": "album", "Value": "best"}]}
        )
        assert not undo(site, [world.url(key)]).exit_code
    assert world.get(key) == world.originals[key]
    assert world.tags(key) == {"album": "best"}
    assert world.head(key)["Metadata"] == {"photographer": "somebody", "seed": "1"}


def test_a_placeholder_tells_what_it_stands_for(world: World) -> None:
    before = {key: world.head(key) for key in world.originals}
    with world.site() as site:
        archive(site)
    for key, original in world.originals.items():
        told = world.head(key)["Metadata"]
        assert told["archiver-kind"] == "placeholder"
        assert told["archiver-sha256"] == sha256(original).hexdigest()
        assert told["archiver-length"] == str(len(original))
        assert told["archiver-etag"] == before[key]["ETag"].strip('"')
        assert told["archiver-modified"] == before[key]["LastModified"].isoformat()
        assert told["archiver-held"] == "copy"


def test_held_originals_are_whole_and_say_whose_they_are(world: World) -> None:
    with world.site() as site:
        archive(site)
    held = {sha256(world.get(f".archiver/holding/{name}")).digest() for name in world.ours("holding")}
    assert held == {sha256(original).digest() for original in world.originals.values()}


def test_a_versioned_bucket_holds_originals_as_versions(
    tmp_path: Path, versioned_bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, versioned_bucket, random_vault)
    with world.site() as site:
        archive(site)
    assert world.ours("holding") == []
    for key, original in world.originals.items():
        assert world.get(key, VersionId=world.head(key)["Metadata"]["archiver-held"]) == original


def test_an_object_written_to_after_its_record_is_left_alone(world: World) -> None:
    refused: list[Outcome] = []
    other = picture(99)
    with world.site() as site:
        world.bucket.put("photos/2019/a.jpg", other)
        tally = archive(site, listener=refused.append)
        assert tally.exit_code == 1
        assert [one.path for one in refused if one.result is Result.REFUSED] == [world.url("2019/a.jpg")]
        assert world.get("2019/a.jpg") == other


def test_a_recalled_image_that_was_edited_is_never_undone_over(world: World, tmp_path: Path) -> None:
    other = picture(98)
    with world.site() as site:
        archive(site)
        recall(site, [world.url("2019/a.jpg")])
        world.bucket.put("photos/2019/a.jpg", other)
        assert undo(site, [world.url("2019/a.jpg")]).exit_code == 1
        assert world.get("2019/a.jpg") == other
        world.scan(site)
        assert world.row(site, "2019/a.jpg").state is State.SUPERSEDED
        assert not undo(site, [world.url("2019/a.jpg")], to=tmp_path).exit_code
        assert (tmp_path / "a.jpg").read_bytes() == world.originals["2019/a.jpg"]
        assert world.get("2019/a.jpg") == other


def test_of_a_copy_that_cannot_be_finished_nothing_is_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fills_the_disk(source: BinaryIO, target: BinaryIO) -> None:
        target.write(source.read(1000))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with world.site() as site:
        archive(site, paths=[world.url("2019/a.jpg")])
        with monkeypatch.context() as patch:
            patch.setattr("archiver.s3.returning.shutil.copyfileobj", fills_the_disk)
            assert undo(site, [world.url("2019/a.jpg")], to=tmp_path).count("undo", Result.FAILED) == 1
        assert not (tmp_path / "a.jpg").exists()
        assert undo(site, [world.url("2019/a.jpg")], to=tmp_path).count("undo", Result.DONE) == 1


def test_a_caption_written_into_a_recalled_image_makes_it_a_new_original(
    tmp_path: Path, versioned_bucket: Bucket, random_vault: Path
) -> None:
    """By a tool that keeps what the object wore, which says that archiver generated it."""
    world = make_world(tmp_path, versioned_bucket, random_vault, most=1)
    (key,) = world.originals
    with world.site() as site:
        archive(site)
        recall(site, [world.url(key)])
        image = world.get(key)
        edited = image[:2] + b"\xff\xfe\x00\x0aour cat." + image[2:]
        versioned_bucket.put(f"photos/{key}", edited, Metadata=world.head(key)["Metadata"])
        world.scan(site)
        assert world.row(site, key).state is State.SUPERSEDED
        assert undo(site, [world.url(key)]).exit_code == 1
        assert world.get(key) == edited
        assert archive(site, paths=[world.url(key)]).count("release", Result.DONE) == 1
        assert undo(site, [world.url(key)]).count("undo", Result.DONE) == 1
        assert world.get(key) == edited


def test_an_original_that_wears_our_marks_is_never_released(
    tmp_path: Path, versioned_bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, versioned_bucket, random_vault, most=1)
    (key,) = world.originals
    refused: list[Outcome] = []
    with world.site() as site:
        versioned_bucket.put(f"photos/{key}", world.originals[key], Metadata={"archiver-kind": "placeholder"})
        world.scan(site)
        archive(site, listener=refused.append)
        assert [type(one.error) for one in refused if one.result is Result.REFUSED] == [ObjectMarked]
        assert world.get(key) == world.originals[key]


def test_a_deleted_placeholder_can_be_undone(world: World) -> None:
    with world.site() as site:
        archive(site)
        world.bucket.delete("photos/2019/a.jpg")
        world.scan(site)
        assert world.row(site, "2019/a.jpg").state is State.GONE
        assert not undo(site, [world.url("2019/a.jpg")]).exit_code
        assert world.get("2019/a.jpg") == world.originals["2019/a.jpg"]
        assert world.head("2019/a.jpg")["ContentType"] == "image/jpeg"


@pytest.mark.parametrize("records", ["in-place", "packed"])
@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
def test_each_copy_of_an_image_has_its_own_original(
    tmp_path: Path, make_bucket: Callable[..., Bucket], random_vault: Path, versioned: bool, records: str
) -> None:
    bucket = make_bucket(versioned=versioned)
    world = make_world(tmp_path, bucket, random_vault, most=0, records=records)
    world.fill(dict.fromkeys(("a.jpg", "b.jpg", "deleted.jpg", "copies/d.jpg"), ("JPEG", 7)))
    with world.site() as site:
        assert not archive(site, paths=[world.url("deleted.jpg")]).exit_code
        bucket.delete("photos/deleted.jpg")
        world.scan(site)
        assert not archive(site).exit_code
        assert not verify(site).exit_code
        for key in world.originals:
            assert undo(site, [world.url(key)]).count("undo", Result.DONE) == 1, key
            assert world.get(key) == world.originals[key]
        assert world.ours("holding") == []


def test_originals_that_an_earlier_archiver_held_are_found(either: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names were made of the object's own number, which all its copies share."""
    with either.site() as site:
        with monkeypatch.context() as earlier:
            earlier.setattr("archiver.s3.releasing.held_number", lambda _key, inode: inode)
            earlier.setattr("archiver.s3.held.held_number", lambda _key, inode: inode)
            assert not archive(site).exit_code
        assert not verify(site).exit_code
        for key in either.originals:
            assert undo(site, [either.url(key)]).count("undo", Result.DONE) == 1, key
            assert either.get(key) == either.originals[key]


@pytest.mark.parametrize("holding", ["auto", "version"])
def test_originals_are_held_whether_or_not_versions_go_on_being_kept(
    tmp_path: Path, versioned_bucket: Bucket, random_vault: Path, holding: str
) -> None:
    def keep_versions(status: str) -> None:
        versioned_bucket.client.put_bucket_versioning(
            Bucket=versioned_bucket.name, VersioningConfiguration={"Status": status}
        )

    world = make_world(tmp_path, versioned_bucket, random_vault, most=1, holding=holding)
    (key,) = world.originals
    with world.site() as site:
        assert not archive(site).exit_code
        keep_versions("Suspended")
        world.fill({"later.jpg": ("JPEG", 8)})
        world.scan(site)
        assert archive(site).count("release", Result.DONE) == 1, "the process took versions for kept"
        assert undo(site, [world.url("later.jpg")]).count("undo", Result.DONE) == 1
    with world.site() as site:
        assert not verify(site).exit_code
        assert undo(site, [world.url(key)], to=tmp_path).count("undo", Result.DONE) == 1
        assert (tmp_path / "a.jpg").read_bytes() == world.originals[key]
    assert world.get("later.jpg") == world.originals["later.jpg"]


def test_nothing_is_lost_where_versions_were_asked_for_and_are_not_kept(
    tmp_path: Path, bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, bucket, random_vault, most=2, holding="version")
    with world.site() as site:
        archive(site)
        undo(site, [world.url()])
    assert {key: world.get(key) for key in world.originals} == world.originals
