"""Records kept many in one object: they outlive the catalog, any unzip shows them, and what is dead goes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image

from archiver import formats
from archiver.catalog.rows import State
from archiver.errors import PlaceholderDamaged
from archiver.formats import Kind
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from archiver.s3 import caring, store
from archiver.s3.objects import Dressing, Encryption, Headers, ObjectInfo
from archiver.s3.packs import Packed, Packs
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import random_vault
from tests.s3.world import World, keeper, make_world, picture

__all__ = ["random_vault"]


@pytest.fixture
def world(tmp_path: Path, bucket: Bucket, random_vault: Path) -> World:
    return make_world(tmp_path, bucket, random_vault, records="packed")


def test_packed_objects_go_all_the_way_and_outlive_the_catalog(world: World, tmp_path: Path) -> None:
    with world.site() as site:
        assert not archive(site).exit_code
        assert set(world.states(site).values()) == {State.RELEASED}
        assert world.users() == [] and len(world.ours("packs")) == 1
        world.scan(site)
        assert set(world.states(site).values()) == {State.RELEASED}, "what is packed is not missing"
        assert not verify(site).exit_code

    # Any unzip gives pictures, each with its record.
    (pack,) = world.ours("packs")
    with zipfile.ZipFile(BytesIO(world.get(f".archiver/packs/{pack}"))) as archived:
        assert set(archived.namelist()) == set(world.originals)
        for key, original in world.originals.items():
            Image.open(BytesIO(archived.read(key))).load()
            envelope = formats.read_envelope(BytesIO(archived.read(key)))
            assert envelope is not None and envelope.source.sha256 == sha256(original).digest()

    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    with world.site(scanned=False) as site:
        assert rebuild(site).count("adopt", Result.DONE) == len(world.originals)
        assert set(world.states(site).values()) == {State.RELEASED}
        assert rebuild(site).count("adopt", Result.DONE) == 0, "a second time there is nothing left to adopt"

        assert not recall(site, [world.url()]).exit_code
        for key, original in world.originals.items():
            assert world.stands(key) is Kind.GENERATED
            assert len(world.get(key)) == len(original)
            assert world.head(key)["Metadata"]["photographer"] == "somebody"
            assert world.head(key)["ContentType"] in ("image/jpeg", "image/png", "image/webp")
            assert world.tags(key)["album"] == "summer"
        assert not archive(site).exit_code
        assert world.users() == []
        assert not undo(site, [world.url()]).exit_code
        assert {key: world.get(key) for key in world.originals} == world.originals
        assert world.ours("holding") == [] and world.ours("journal") == []


def test_the_end_of_the_grace_period_deletes_no_original_whose_pack_is_damaged(world: World) -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    with world.site() as site:
        archive(site)
        (pack,) = world.ours("packs")
        whole = world.get(f".archiver/packs/{pack}")
        world.bucket.put(f"photos/.archiver/packs/{pack}", whole[: len(whole) // 2])
    with world.site() as site:
        assert expire(site, later).count("expire", Result.DONE) == 0
        assert len(world.ours("holding")) == len(world.originals)
        world.bucket.put(f"photos/.archiver/packs/{pack}", whole)
    with world.site() as site:
        assert expire(site, later).count("expire", Result.DONE) == len(world.originals)
        assert world.ours("holding") == []
        assert not verify(site).exit_code


def test_a_pack_is_written_anew_when_more_than_half_of_it_is_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    with world.site() as site:
        archive(site)
        before = world.ours("packs")
        undo(site, [world.url("2019")])
        expire(site, now)
        assert world.ours("packs") == before, "it is too young: an act may still be under way"
        monkeypatch.setattr(caring, "_YOUNG", -5)
        expire(site, now)
        assert world.ours("packs") == before, "once a day is enough"
        monkeypatch.setattr(caring, "_OFTEN", 0)
        expire(site, now)
        (after,) = world.ours("packs")
        assert [after] != before
        with zipfile.ZipFile(BytesIO(world.get(f".archiver/packs/{after}"))) as archived:
            assert archived.namelist() == ["wide.webp"]
        assert not recall(site, [world.url("wide.webp")]).exit_code
        expire(site, now)
        assert world.ours("packs") == [], "a recalled image carries its record itself"


def test_packs_of_other_processes_are_found_and_damaged_ones_named(bucket: Bucket, world: World) -> None:
    store = bucket.store(prefix="photos/")
    mine, other = Packs(store), Packs(store)
    wears = Dressing(Headers(content_type="image/jpeg"), {"a": "é"}, {"b": "c"})
    first, second = other.new_key(), other.new_key()
    assert mine.find("x/y.jpg") is None
    with world.site() as site:
        archive(site, limit=1)
        (pack,) = world.ours("packs")
        packs = keeper(site).ground.packs
        (key,) = packs.keys(f".archiver/packs/{pack}")
        found = packs.find(key)
        assert found is not None
    other.write(first, [Packed("x/y.jpg", found.image, wears)])
    seen = mine.find("x/y.jpg")
    assert seen is not None and seen.dressing == wears and seen.image == found.image
    other.write(second, [Packed("x/y.jpg", found.image, Dressing())])
    mine.look_again()
    assert first < second and not mine.is_newest(first, "x/y.jpg") and mine.is_newest(second, "x/y.jpg")
    bucket.put("photos/.archiver/packs/ffffffff.zip", b"no zip")
    with pytest.raises(PlaceholderDamaged):
        Packs(store).find("not/there.jpg")


def test_a_record_is_looked_for_in_packs_of_other_processes_before_an_older_one_is_taken(world: World) -> None:
    """Else a gateway that knows the pack of yesterday shows what the object was then."""
    with world.site() as site:
        archive(site)
        mine = keeper(site).ground.packs
        yesterday = mine.find("2019/a.jpg")
        assert yesterday is not None
        recall(site, [world.url("2019/a.jpg")])
        world.bucket.put("photos/2019/a.jpg", picture(77))
    with world.site() as site:
        archive(site)
        row = world.row(site, "2019/a.jpg")
        assert row.state is State.RELEASED and row.record_id is not None
        record = site.catalog.record(row.record_id).payload
    today = mine.find("2019/a.jpg", record)
    assert today is not None and today.carries(record) and not yesterday.carries(record)


def test_a_pack_is_encrypted_as_the_originals_in_it_were(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may read the bucket but use no key of its objects gets nothing of them from a pack."""
    written: dict[str, Encryption] = {}
    told = store.info_of

    def info_of(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
        return replace(told(key, answer), encryption=Encryption("aws:kms", f"key-of-{key[-3:]}"))

    def noted(key: str, body: BinaryIO, *, dressing: Dressing, if_none_match: bool) -> ObjectInfo:
        written[key] = dressing.encryption
        return put(key, body, dressing=dressing, if_none_match=if_none_match)

    with world.site() as site:
        packs, put = keeper(site).ground.packs, keeper(site).ground.store.put
        monkeypatch.setattr(store, "info_of", info_of)
        monkeypatch.setattr(Encryption, "as_arguments", lambda _: {})
        write = packs.write

        def writing(key: str, packed: Sequence[Packed]) -> None:
            with monkeypatch.context() as within:
                within.setattr(keeper(site).ground.store, "put", noted)
                write(key, packed)

        monkeypatch.setattr(packs, "write", writing)
        assert not archive(site).exit_code
        kinds = {"jpg", "png", "ebp"}
        assert {encryption.key for encryption in written.values()} == {f"key-of-{kind}" for kind in kinds}
        for pack, encryption in written.items():
            assert {f"key-of-{key[-3:]}" for key in packs.keys(pack)} == {encryption.key}


def test_an_original_that_its_owner_put_back_is_one_again(world: World) -> None:
    with world.site() as site:
        archive(site)
        world.bucket.put("photos/wide.webp", world.originals["wide.webp"], ContentType="image/webp")
        world.scan(site)
        assert world.row(site, "wide.webp").state is State.SUPERSEDED
        assert archive(site).count("release", Result.DONE) == 1
        assert not verify(site).exit_code
        assert undo(site, [world.url()]).count("undo", Result.DONE) == len(world.originals)
    assert {key: world.get(key) for key in world.originals} == world.originals
