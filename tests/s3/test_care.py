"""What looks after buckets: proofs, ends of grace periods, rebuilding, and what is never touched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from archiver.catalog.rows import State
from archiver.errors import BucketUnreachable, ObjectArchived, ObjectLocked, ObjectsNotInstalled
from archiver.formats import Kind
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result, Tally
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from archiver.s3 import caring, held, releasing
from archiver.s3.marks import Marks, marked
from tests.fixtures_s3 import Bucket, Seaweed
from tests.lifecycle.conftest import random_vault
from tests.s3.world import World, keeper, make_world

__all__ = ["random_vault"]

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(tmp_path: Path, bucket: Bucket, random_vault: Path) -> World:
    return make_world(tmp_path, bucket, random_vault)


def test_a_lost_catalog_is_rebuilt_from_the_bucket_and_originals_come_back(world: World, tmp_path: Path) -> None:
    with world.site() as site:
        archive(site)
        recall(site, [world.url("2019/a.jpg")])
    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    # Somebody wrote a caption into a recalled image and put it elsewhere: theirs, though the record is still in it.
    image = world.get("2019/a.jpg")
    world.bucket.put("photos/captioned.jpg", image[:2] + b"\xff\xfe\x00\x0aour cat." + image[2:])
    # A copy that lost its metadata, as some tools make them, is known by what it carries.
    world.bucket.put("photos/copied.webp", world.get("wide.webp"))
    with world.site(scanned=False) as site:
        assert rebuild(site).count("adopt", Result.DONE) == len(world.originals) + 1
        states = world.states(site)
        assert states.pop("2019/a.jpg") is State.RECALLED
        assert world.row(site, "captioned.jpg").state is State.RESIDENT
        assert set(states.values()) == {State.RELEASED}
        assert world.row(site, "copied.webp").state is State.RELEASED
        assert not verify(site).exit_code
        assert undo(site, [world.url("2019"), world.url("wide.webp")]).count("undo", Result.DONE) == 4
        assert {key: world.get(key) for key in world.originals} == world.originals
        assert rebuild(site).count("adopt", Result.DONE) == 0


def test_the_end_of_the_grace_period_deletes_what_is_held_and_nothing_else(
    tmp_path: Path, versioned_bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, versioned_bucket, random_vault, most=2)
    with world.site() as site:
        versioned_bucket.put("photos/2019/a.jpg", world.originals["2019/a.jpg"] + b"", Metadata={"again": "yes"})
        world.scan(site)
        archive(site)
        assert expire(site, datetime.now(UTC)).counts == {}, "its time has not come"
        assert expire(site, LATER).count("expire", Result.DONE) == 2
        assert undo(site, [world.url()]).count("undo", Result.SKIPPED) == 2
        assert not verify(site).exit_code
    versions = versioned_bucket.client.list_object_versions(Bucket=versioned_bucket.name, Prefix="photos/2019/a.jpg")
    left = [one for one in versions["Versions"] if one["Size"] == len(world.originals["2019/a.jpg"])]
    assert len(left) == 1, "the version that the user wrote over is the user's"


def test_no_original_is_deleted_while_its_placeholder_is_not_whole(world: World) -> None:
    with world.site() as site:
        archive(site)
        damaged = bytearray(world.get("wide.webp"))
        place = damaged.index(b"ARCV") + 120
        damaged[place] ^= 0xFF
        head = world.head("wide.webp")
        world.bucket.put("photos/wide.webp", bytes(damaged), Metadata=head["Metadata"])
        tally = expire(site, LATER)
        assert tally.count("expire", Result.DONE) == len(world.originals) - 1
        assert tally.count("expire", Result.REFUSED) == 1
        assert len(world.ours("holding")) == 1
        assert verify(site).count("verify", Result.FAILED) == 1


def test_what_was_held_of_an_image_that_was_written_over_goes_when_its_time_has_come(world: World) -> None:
    with world.site() as site:
        archive(site)
        world.fill({"2019/a.jpg": ("JPEG", 97)})
        world.scan(site)
        assert archive(site).count("release", Result.DONE) == 1
        assert len(world.ours("holding")) == len(world.originals) + 1
        assert not expire(site, LATER).exit_code
        assert world.ours("holding") == []


def test_a_grace_period_that_began_anew_meanwhile_is_not_ended(world: World) -> None:
    """Between the list of what is due and its deletion another process may have undone, and released again."""
    with world.site() as site:
        archive(site)
        held_now = site.catalog.holding_for(world.row(site, "2019/a.jpg").id)
        assert held_now is not None
        listed = replace(held_now, expires_at=held_now.expires_at - 3600)
        assert caring.expire_object(keeper(site).ground, listed).result is Result.SKIPPED
        assert not undo(site, [world.url("2019/a.jpg")]).exit_code
        assert world.stands("2019/a.jpg") is None
        assert caring.expire_object(keeper(site).ground, held_now).result is Result.SKIPPED


def test_a_damaged_held_original_is_told_and_never_put_back(world: World) -> None:
    with world.site() as site:
        archive(site)
        (name,) = (
            one
            for one in world.ours("holding")
            if world.get(f".archiver/holding/{one}") == world.originals["wide.webp"]
        )
        world.bucket.put(f"photos/.archiver/holding/{name}", b"?" * len(world.originals["wide.webp"]))
        assert verify(site).count("verify", Result.FAILED) == 1
        assert undo(site, [world.url("wide.webp")]).count("undo", Result.FAILED) == 1
        assert world.stands("wide.webp") is Kind.PLACEHOLDER


def test_copies_that_no_catalog_lists_go_a_day_later_if_their_original_is_in_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.site() as site:
        ground = keeper(site).ground
        for key in ("2019/a.jpg", "wide.webp"):
            info = ground.store.head(key)
            digest = sha256(world.originals[key]).digest()
            marks = Marks.of_original("placeholder", info, digest, "copy")
            ground.held.hold(info, marked(ground.dressing(info), marks), digest)
        expire(site, LATER)
        assert len(world.ours("holding")) == 2
        monkeypatch.setattr(held, "_UNLISTED", -5)
        monkeypatch.setattr(caring, "_OFTEN", 0)
        world.bucket.delete("photos/wide.webp")
        expire(site, LATER)
        (left,) = world.ours("holding")
        assert world.get(f".archiver/holding/{left}") == world.originals["wide.webp"], (
            "it may be the last copy there is"
        )


def test_a_copy_that_an_act_is_about_to_list_stays_however_old_an_earlier_one_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that was taken back left a copy under the name that the next release of the object gives its own."""
    with world.site() as site:
        ground = keeper(site).ground

        def tidied(arrow: str) -> None:
            if arrow == "s3.release.held":
                monkeypatch.setattr(held, "_UNLISTED", -5)
                monkeypatch.setattr(caring, "_OFTEN", 0)
                assert not list(caring.tidy(ground))

        monkeypatch.setattr(releasing, "arrow", tidied)
        archive(site, paths=[world.url("2019/a.jpg")])
        assert world.stands("2019/a.jpg") is Kind.PLACEHOLDER
        assert not undo(site, [world.url("2019/a.jpg")]).exit_code
        assert world.stands("2019/a.jpg") is None


def test_what_is_kept_without_loss_comes_back_byte_for_byte(tmp_path: Path, bucket: Bucket, random_vault: Path) -> None:
    pytest.importorskip("imagecodecs")
    world = make_world(tmp_path, bucket, random_vault, scheme="lossless", most=2)
    with world.site() as site:
        tally = archive(site)
        assert tally.count("release", Result.DONE) == 2, tally.reasons
        for key, original in world.originals.items():
            assert world.stands(key) is Kind.PLACEHOLDER
            assert len(world.get(key)) < len(original)
        assert not verify(site, decode=True).exit_code
        assert expire(site, LATER).count("expire", Result.DONE) == 2
        assert not recall(site, [world.url()]).exit_code
        assert set(world.states(site).values()) == {State.RECORDED}
        assert {key: world.get(key) for key in world.originals} == world.originals


def test_a_zero_grace_period_holds_nothing(tmp_path: Path, bucket: Bucket, random_vault: Path) -> None:
    world = make_world(tmp_path, bucket, random_vault, grace="0s", most=2)
    with world.site() as site:
        assert not archive(site).exit_code
        assert world.ours("holding") == []
        assert not recall(site, [world.url()]).exit_code


def test_locked_and_archived_objects_are_never_touched(
    tmp_path: Path, moto_bucket: Callable[..., Bucket], random_vault: Path
) -> None:
    bucket = moto_bucket(lock=True)
    world = make_world(tmp_path, bucket, random_vault, most=3)
    a, b, c = world.originals
    client, name = bucket.client, bucket.name
    client.put_object_legal_hold(Bucket=name, Key=f"photos/{a}", LegalHold={"Status": "ON"})
    until = datetime.now(UTC) + timedelta(days=2)
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    client.put_object_retention(Bucket=name, Key=f"photos/{b}", Retention=retention)
    bucket.put(f"photos/{c}", world.originals[c], StorageClass="GLACIER")
    outcomes: list[Outcome] = []
    with world.site() as site:
        archive(site, listener=outcomes.append)
        assert State.RELEASED not in world.states(site).values()
    why = {type(one.error) for one in outcomes if one.result is Result.REFUSED}
    assert why == {ObjectLocked, ObjectArchived}
    assert world.get(a) == world.originals[a] and world.get(b) == world.originals[b]


def test_an_undo_is_done_where_somebody_locked_the_held_version(
    tmp_path: Path, moto_bucket: Callable[..., Bucket], random_vault: Path
) -> None:
    bucket = moto_bucket(lock=True)
    world = make_world(tmp_path, bucket, random_vault, most=1)
    (key,) = world.originals
    with world.site() as site:
        archive(site)
        held_version = world.head(key)["Metadata"]["archiver-held"]
        bucket.client.put_object_legal_hold(
            Bucket=bucket.name, Key=f"photos/{key}", VersionId=held_version, LegalHold={"Status": "ON"}
        )
        assert undo(site, [world.url()]).count("undo", Result.DONE) == 1
        assert world.get(key) == world.get(key, VersionId=held_version) == world.originals[key]
        assert world.ours("journal") == []


@pytest.mark.parametrize("back", [recall, undo])
def test_a_legal_hold_on_a_placeholder_is_on_what_stands_there_next(
    tmp_path: Path, moto_bucket: Callable[..., Bucket], random_vault: Path, back: Callable[..., Tally]
) -> None:
    bucket = moto_bucket(lock=True)
    world = make_world(tmp_path, bucket, random_vault, most=2)
    held, free = world.originals
    with world.site() as site:
        archive(site)
        place = {"Bucket": bucket.name, "Key": f"photos/{held}"}
        bucket.client.put_object_legal_hold(**place, LegalHold={"Status": "ON"})
        assert not back(site, [world.url()]).exit_code
        assert world.head(held).get("ObjectLockLegalHoldStatus") == "ON"
        assert world.head(free).get("ObjectLockLegalHoldStatus") != "ON"


def test_a_server_that_goes_away_in_the_middle_loses_nothing(
    tmp_path: Path, seaweed: Seaweed, bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, bucket, random_vault, most=3)
    with world.site() as site:
        ground = keeper(site).ground
        hold = ground.held.hold

        def last_words(*arguments: object) -> None:
            hold(*arguments)  # type: ignore[arg-type]
            seaweed.stop()

        ground.held.hold = last_words  # type: ignore[method-assign]
        try:
            tally = archive(site)
            assert tally.count("release", Result.DONE) < 3
            with pytest.raises(BucketUnreachable):
                world.scan(site)
            assert State.GONE not in world.states(site).values(), "unreachable is not absent"
            assert reconcile(site).exit_code == 1, "it cannot be settled while the server is away"
        finally:
            if seaweed.process is None:
                seaweed.start()
    with world.site() as site:
        assert world.ours("journal") == []
        for key in world.originals:
            kind = world.stands(key)
            assert (kind is Kind.PLACEHOLDER) == (world.row(site, key).state is State.RELEASED)
        assert not archive(site).exit_code
        assert set(world.states(site).values()) == {State.RELEASED}
        assert not undo(site, [world.url()]).exit_code
    assert {key: world.get(key) for key in world.originals} == world.originals


@pytest.mark.timeout(300)
def test_the_embedded_weights_archive_and_recall_a_bucket(tmp_path: Path, bucket: Bucket) -> None:
    """End to end with the weights that everybody gets: a photograph goes, and an image of its meaning comes back."""
    from skimage import data

    from archiver.config import Settings
    from archiver.models.vault import Vault

    world = make_world(tmp_path, bucket, tmp_path / "vault", most=0)
    raw = world.settings.model_dump()
    raw["model"] = {"batch": 1}
    raw["rule"][0]["gate"] = {}
    raw["catalog"] = {"url": world.settings.catalog_url}
    world.settings = Settings.model_validate(raw)
    Vault(world.settings.vault.path).install_embedded()
    file = BytesIO()
    Image.fromarray(data.astronaut()).save(file, "JPEG", quality=92)
    world.originals["astronaut.jpg"] = file.getvalue()
    bucket.put("photos/astronaut.jpg", file.getvalue(), ContentType="image/jpeg")
    with world.site() as site:
        tally = archive(site)
        assert tally.count("release", Result.DONE) == 1, tally.reasons
        assert not recall(site, [world.url("astronaut.jpg")]).exit_code
    assert world.stands("astronaut.jpg") is Kind.GENERATED
    assert b"trainedAlgorithmicMedia" in world.get("astronaut.jpg")
    with open_site(world.settings) as site:
        assert not undo(site, [world.url("astronaut.jpg")]).exit_code
    assert world.stands("astronaut.jpg") is None


def test_a_bucket_without_boto3_says_what_to_install(
    tmp_path: Path, bucket: Bucket, random_vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, bucket, random_vault, most=0)
    monkeypatch.setitem(sys.modules, "archiver.s3.store", None)
    with world.site(scanned=False, settled=False) as site, pytest.raises(ObjectsNotInstalled, match="boto3"):
        archive(site)
