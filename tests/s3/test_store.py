"""Promises of the store: conditions are obeyed, what objects wear is kept, and every failure has its own name."""

from __future__ import annotations

import hashlib
import io
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from fixtures_s3 import ACCESS_KEY, SECRET_KEY, Bucket

from archiver.config import S3TierSettings
from archiver.errors import (
    BucketUnreachable,
    ObjectChanged,
    ObjectLocked,
    ObjectMissing,
    ObjectRefused,
    PermissionRefused,
)
from archiver.s3 import client as clients
from archiver.s3 import multipart
from archiver.s3 import store as stores
from archiver.s3.address import ObjectUrl, etag64
from archiver.s3.budget import Budget
from archiver.s3.objects import Abilities, Dressing, Encryption, Headers, Lock
from archiver.s3.ranged import open_ranged
from archiver.s3.store import ObjectStore

WORN = Dressing(
    headers=Headers("image/jpeg", "identity", 'inline; filename="a.jpg"', "de", "max-age=60"),
    metadata={"camera": "Nikon D90", "archiver-kind": "placeholder"},
    tags={"album": "Ostsee & more", "favourite": ""},
)


@pytest.fixture
def store(bucket: Bucket) -> Iterator[ObjectStore]:
    with closing(bucket.store(prefix="photos/")) as opened:
        yield opened


# -- names -------------------------------------------------------------------------------------------------------------


def test_an_objects_name_reads_back() -> None:
    for text in ("s3://photos/2019/a b+c.jpg", "s3://photos", "s3://photos/a//b"):
        assert str(ObjectUrl.parse(text)) == text
    assert str(ObjectUrl.parse("s3://photos/2019/") / "a.jpg") == "s3://photos/2019/a.jpg"
    assert ObjectUrl.parse("s3://photos/2019/a.jpg").name == "a.jpg"
    for text in ("photos/a.jpg", "s3://", "s3:///a", "https://photos/a"):
        with pytest.raises(ValueError):
            ObjectUrl.parse(text)


def test_an_etag_is_the_same_number_with_and_without_its_quotes() -> None:
    assert etag64('"abc"') == etag64("abc") == int(hashlib.sha256(b"abc").hexdigest()[:16], 16)


# -- reading and writing -----------------------------------------------------------------------------------------------


def test_what_is_put_is_got_with_all_it_wears(store: ObjectStore, bucket: Bucket) -> None:
    body = bytes(range(256)) * 10
    put = store.put("2019/a b+ü.jpg", body, dressing=WORN)
    assert bucket.get("photos/2019/a b+ü.jpg") == body
    info, stream = store.get("2019/a b+ü.jpg", if_match=put.etag)
    with stream:
        assert stream.read() == body
    assert info == store.head("2019/a b+ü.jpg")
    assert (info.etag, info.size, info.md5) == (put.etag, len(body), hashlib.md5(body).hexdigest())
    assert (info.headers, info.metadata) == (WORN.headers, WORN.metadata)
    assert store.tags("2019/a b+ü.jpg") == WORN.tags
    assert abs(put.modified_ns - info.modified_ns) <= 10**9
    assert info.modified_ns % 10**9 == 0
    assert info.dressing(WORN.tags).tags == WORN.tags
    (listed,) = store.list()
    assert (listed.key, listed.etag, listed.size) == (info.key, info.etag, info.size)


def test_a_listing_and_a_head_agree_on_the_time(store: ObjectStore) -> None:
    store.put("a.jpg", b"x")
    assert next(store.list()).modified_ns == store.head("a.jpg").modified_ns


def test_files_and_streams_are_sent_like_bytes(store: ObjectStore, tmp_path: Path) -> None:
    body = b"0123456789" * 1000
    (tmp_path / "a").write_bytes(body)
    with (tmp_path / "a").open("rb") as file:
        store.put("file", file)
    store.put("again", store.get("file")[1])
    with closing(io.BytesIO(b"front" + body)) as file:
        file.seek(5)
        store.put("from here on", file)
    for key in ("file", "again", "from here on"):
        assert store.read(key, limit=10_000) == body


def test_ranges_are_all_that_is_fetched(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 2000
    etag = store.put("a", body).etag
    info, stream = store.get("a", range=(10, 19))
    with stream:
        assert stream.read() == body[10:20]
    assert info.size == len(body)
    assert store.read_head("a", 100) == body[:100]
    store.put("empty", b"")
    assert store.read_head("empty", 100) == b""
    fetched: list[tuple[int, int]] = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda key, **wanted: fetched.append(wanted["range"]) or get(key, **wanted))
    with open_ranged(store, "a", etag, len(body)) as file:
        assert file.read(16) == body[:16]
        file.seek(-5, io.SEEK_END)
        assert file.read() == body[-5:]
    assert sum(last - first + 1 for first, last in fetched) < 70_000


def test_more_than_was_agreed_is_not_read(store: ObjectStore) -> None:
    store.put("a", bytes(1000))
    with pytest.raises(ObjectRefused, match="1000 bytes"):
        store.read("a", limit=999)


def test_keys_below_a_prefix_come_in_pages(store: ObjectStore, bucket: Bucket) -> None:
    keys = [f"x/{number:03}.jpg" for number in range(30)]
    for key in keys:
        store.put(key, b"")
    bucket.put("photos-of-others/a.jpg")
    store.client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 7}
    )
    assert [len(page) for page in store.pages()] == [7, 7, 7, 7, 2]
    assert [entry.key for entry in store.list("x/", start_after="x/019.jpg")] == keys[20:]


# -- conditions --------------------------------------------------------------------------------------------------------


def test_an_object_that_changed_is_not_overwritten_and_not_deleted(store: ObjectStore, bucket: Bucket) -> None:
    etag = store.put("a", b"one").etag
    bucket.put("photos/a", b"two")
    for attempt in (
        lambda: store.put("a", b"three", if_match=etag),
        lambda: store.put("a", b"three", if_none_match=True),
        lambda: store.delete("a", if_match=etag),
        lambda: store.get("a", if_match=etag),
        lambda: store.copy("a", "b", if_match=etag),
    ):
        with pytest.raises(ObjectChanged, match=r"s3://.*/photos/a "):
            attempt()
    assert bucket.get("photos/a") == b"two"
    with pytest.raises(ObjectMissing):
        store.head("b")


def test_the_right_version_is_overwritten_and_deleted(store: ObjectStore) -> None:
    etag = store.put("a", b"one", if_none_match=True).etag
    etag = store.put("a", b"two", if_match=etag).etag
    store.delete("a", if_match=etag)
    assert not store.exists("a")
    store.delete("a")
    with pytest.raises((ObjectChanged, ObjectMissing)):
        store.put("a", b"three", if_match=etag)
    assert not store.exists("a")


def test_a_copy_wears_what_it_is_given(store: ObjectStore) -> None:
    etag = store.put("a", b"one", dressing=WORN).etag
    dressing = Dressing(Headers("image/png"), {"archiver-kind": "held"}, {"kept": "yes"})
    copied = store.copy("a", "held/ü", if_match=etag, dressing=dressing)
    info = store.head("held/ü")
    assert (info.etag, info.size, copied.etag) == (etag, 3, etag)
    assert (info.headers.content_type, info.metadata, store.tags("held/ü")) == (
        "image/png",
        dressing.metadata,
        dressing.tags,
    )
    with pytest.raises(ObjectMissing):
        store.copy("nothing", "b")


@pytest.fixture
def losing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Operations of which the next answer gets lost, whereupon boto3 sends the request once more."""
    names: set[str] = set()
    send = store.client._endpoint._get_response

    def lossy(request: Any, model: Any, context: Any) -> Any:
        answer = send(request, model, context)
        if model.name in names:
            names.remove(model.name)
            return None, ConnectionClosedError(endpoint_url=request.url)
        return answer

    monkeypatch.setattr(store.client._endpoint, "_get_response", lossy)
    return names


def test_a_write_whose_answer_was_lost_is_known_again(store: ObjectStore, losing: set[str]) -> None:
    """The condition that held the first time holds no more."""
    etag = store.put("a", b"one").etag
    losing.add("PutObject")
    assert store.put("a", b"two", if_match=etag).etag == hashlib.md5(b"two").hexdigest()
    losing.add("PutObject")
    with pytest.raises(ObjectChanged):
        store.put("a", b"three", if_match=etag)
    assert store.read("a", limit=10) == b"two"
    losing.add("DeleteObject")
    with pytest.raises(ObjectChanged):
        store.delete("a", if_match=etag)
    losing.add("DeleteObject")
    store.delete("a", if_match=hashlib.md5(b"two").hexdigest())
    assert not store.exists("a")


# -- many bytes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 MiB, the least that S3 takes, from 6 MiB on."""
    monkeypatch.setattr(stores, "MULTIPART_ABOVE", 6 << 20)
    monkeypatch.setattr(stores, "LARGEST_COPY", 6 << 20)
    monkeypatch.setattr(multipart, "PART", 5 << 20)
    monkeypatch.setattr(multipart, "COPIED_PART", 5 << 20)


@pytest.mark.usefixtures("small_parts")
def test_large_objects_are_written_and_copied_in_parts(store: ObjectStore) -> None:
    body = hashlib.shake_128(b"photograph").digest(11 << 20)
    info = store.put("a", io.BytesIO(body), dressing=WORN)
    assert (info.parts, info.md5, info.etag) == (3, None, store.head("a").etag)
    assert store.read("a", limit=len(body)) == body
    assert store.head("a").metadata == WORN.metadata
    assert store.tags("a") == WORN.tags
    for condition in ({"if_match": "0" * 32}, {"if_none_match": True}):
        with pytest.raises(ObjectChanged):
            store.put("a", body[::-1], **condition)
    copied = store.copy("a", "b", if_match=info.etag, dressing=WORN)
    assert copied.parts == 3
    assert store.read("b", limit=len(body)) == body
    with pytest.raises(ObjectChanged):
        store.copy("a", "c", if_match="0" * 32)
    assert not store.client.list_multipart_uploads(Bucket=store.settings.bucket).get("Uploads")


@pytest.mark.usefixtures("small_parts")
def test_a_write_in_parts_whose_answer_was_lost_is_known_again(store: ObjectStore, losing: set[str]) -> None:
    body = hashlib.shake_128(b"photograph").digest(11 << 20)
    etag = store.put("a", b"one").etag
    assert store.abilities.conditional_complete
    losing.add("CompleteMultipartUpload")
    info = store.put("a", body, if_match=etag)
    assert (info.etag, info.parts) == (store.head("a").etag, 3)
    losing |= {"CompleteMultipartUpload", "AbortMultipartUpload"}
    with pytest.raises(ObjectChanged):
        store.put("a", body[::-1], if_match=etag)
    assert store.read("a", limit=len(body)) == body


# -- versions and locks ------------------------------------------------------------------------------------------------


def test_versions_come_newest_first_with_their_markers(versioned_bucket: Bucket) -> None:
    with closing(versioned_bucket.store(prefix="p/")) as store:
        first, second = store.put("a", b"one"), store.put("a", b"two")
        store.put("ab", b"another key")
        assert first.version_id != second.version_id
        marker = store.delete("a")
        found = list(store.versions("a"))
        assert [one.version_id for one in found] == [marker, second.version_id, first.version_id]
        assert [(one.is_latest, one.is_marker) for one in found] == [(True, True), (False, False), (False, False)]
        assert (found[2].etag, found[2].size) == (first.etag, 3)
        with pytest.raises(ObjectMissing):
            store.head("a")
        assert store.read("a", limit=10, version=first.version_id) == b"one"
        assert store.head("a", first.version_id).etag == first.etag
        assert store.copy("a", "a", version=first.version_id).etag == first.etag
        store.delete("a", version=second.version_id)
        assert second.version_id not in [one.version_id for one in store.versions("a")]


def test_an_unversioned_bucket_has_no_version_ids(store: ObjectStore) -> None:
    assert store.put("a", b"one").version_id == store.head("a").version_id == ""
    assert store.delete("a") == ""
    assert list(store.versions("a")) == []


def test_locks_are_told(make_bucket: Callable[..., Bucket], moto_bucket: Callable[..., Bucket]) -> None:
    for bucket in (make_bucket(lock=True), moto_bucket(lock=True)):
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        bucket.put("held", ObjectLockLegalHoldStatus="ON")
        bucket.put("kept", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=tomorrow)
        bucket.put("free")
        with closing(bucket.store()) as store:
            assert store.head("held").lock.reason == "legal hold"
            assert store.head("kept").lock.reason.startswith(f"governance until {tomorrow:%Y-%m-%d}")
            assert store.head("free").lock == Lock()
            kept = store.head("kept")
            with pytest.raises((PermissionRefused, ObjectLocked)):
                store.delete("kept", version=kept.version_id)
    assert Lock(datetime.now(UTC) - timedelta(seconds=1), "COMPLIANCE").reason == ""


def test_the_server_is_tried_out_and_nothing_is_left_behind(
    make_bucket: Callable[..., Bucket], moto_bucket: Callable[..., Bucket]
) -> None:
    everything = Abilities(
        versioned=False,
        conditional_put=True,
        conditional_complete=True,
        conditional_delete=True,
        conditional_copy=True,
        object_lock=False,
    )
    for bucket, able in (
        (make_bucket(), everything),
        (moto_bucket(), Abilities(False, True, False, True, False, False)),
        (moto_bucket(lock=True), Abilities(True, True, False, True, False, True)),
    ):
        with closing(bucket.store()) as store:
            assert store.abilities == able
            assert "Versions" not in bucket.client.list_object_versions(Bucket=bucket.name)
    locked = make_bucket(lock=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    locked.client.put_object_lock_configuration(
        Bucket=locked.name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    with closing(locked.store()) as store:
        assert store.abilities.object_lock


def test_a_server_without_conditional_writes_is_seen_through(bucket: Bucket) -> None:
    def forget(params: dict[str, Any], **_: Any) -> None:
        for header in ("If-Match", "If-None-Match"):
            params["headers"].pop(header, None)

    with closing(bucket.store()) as store:
        store.client.meta.events.register("before-call.s3", forget)
        assert not any(
            (store.abilities.conditional_put, store.abilities.conditional_delete, store.abilities.conditional_complete)
        )


def test_class_and_encryption_are_asked_for(moto_bucket: Callable[..., Bucket]) -> None:
    bucket = moto_bucket()
    kms = bucket.store(sse="aws:kms", sse_key="arn:aws:kms:us-east-1:123456789012:key/1")
    with closing(bucket.store()) as store, closing(kms):
        store.put("cold", b"x", dressing=Dressing(storage_class="STANDARD_IA", encryption=Encryption("AES256")))
        assert (store.head("cold").storage_class, store.head("cold").encryption.kind) == ("STANDARD_IA", "AES256")
        assert next(store.list()).storage_class == "STANDARD_IA"
        kms.put("a", b"x", dressing=Dressing(encryption=Encryption("AES256")))
        assert kms.head("a").encryption == Encryption("aws:kms", "arn:aws:kms:us-east-1:123456789012:key/1")
        assert kms.head("a").md5 is None
        store.put("archived", b"x", dressing=Dressing(storage_class="GLACIER"))
        assert not store.head("archived").readable


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    for attempt in (lambda: store.head("a"), lambda: store.get("a"), lambda: store.read("a", limit=1)):
        with pytest.raises(ObjectMissing, match=r"s3://.*/photos/a is not there"):
            attempt()


def test_what_cannot_be_sent_is_the_fault_of_one_object(store: ObjectStore) -> None:
    with pytest.raises(ObjectRefused, match="ASCII"):
        store.put("a.jpg", b"x", dressing=Dressing(metadata={"title": "Fr\xfch"}))


def test_an_expiry_that_is_no_date_is_one_that_is_over() -> None:
    assert Headers(expires="0").as_arguments() == {"Expires": "1970-01-01T00:00:00+00:00"}


@pytest.mark.parametrize("what", ["no server", "no bucket", "wrong secret", "no credentials", "no profile", "silence"])
def test_a_tier_that_cannot_be_asked_is_unreachable(
    what: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    monkeypatch.setattr(clients, "_READ_SECONDS", 0.2)
    settings: dict[str, Any] = {"name": "bucket", "bucket": bucket.name, "endpoint": bucket.endpoint}
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        if what == "no server":
            settings["endpoint"] = "http://127.0.0.1:1"
        if what == "no bucket":
            settings["bucket"] = "nobody-made-this"
        if what == "wrong secret":
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        if what == "no credentials":
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        if what == "no profile":
            settings["profile"] = "nobody"
        if what == "silence":
            settings["endpoint"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(ObjectStore(S3TierSettings(**settings))) as store, pytest.raises(BucketUnreachable) as caught:
            list(store.list())
    assert caught.value.exit_code == 4
    assert SECRET_KEY not in caught.value.message


def test_credentials_come_from_a_file(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"
        f"[nas]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    with closing(bucket.store(credentials_file=file, profile="nas")) as store:
        store.put("a", b"x")
    with closing(bucket.store(credentials_file=file)) as store, pytest.raises(BucketUnreachable):
        list(store.list())


# -- budgets -----------------------------------------------------------------------------------------------------------


class _Clock:
    """A clock that moves when somebody waits."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_a_budget_is_never_overspent_by_more_than_a_second_of_it() -> None:
    clock = _Clock()
    budget = Budget(10, clock, clock.wait)
    for _ in range(10):
        budget.take()
    assert clock.now == 100.0
    for _ in range(50):
        budget.take()
    assert clock.now == pytest.approx(105.0)
    clock.wait(3600)
    budget.take(30)
    assert clock.now == pytest.approx(3707.0)
    Budget(None, clock, clock.wait).take(10**12)
    assert clock.now == pytest.approx(3707.0)


def test_every_request_and_byte_is_taken_from_the_budget(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(bucket.store()) as store:
        requests: list[int] = []
        moved: list[int] = []
        monkeypatch.setattr(store._requests, "take", lambda units=1: requests.append(units))
        monkeypatch.setattr(store._bytes, "take", lambda units=1: moved.append(units))
        store.put("a", bytes(1000))
        store.read("a", limit=1000)
        store.head("a")
        list(store.list())
    assert len(requests) == 4
    assert sum(moved) == 2000
