"""Promises of the scan of a bucket: what it knows is true, and unknown is not absent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from fixtures_catalog import new_record
from fixtures_s3 import Bucket, Seaweed

from archiver.catalog import Catalog
from archiver.catalog.rows import FileRow, State
from archiver.errors import BucketUnreachable, TierNotScanned, TierUnreachable
from archiver.s3 import client
from archiver.s3 import scan as scanning
from archiver.s3.address import etag64
from archiver.s3.scan import scan_keys
from archiver.s3.tier import IDENTITY, S3Tier
from archiver.tiers.listing import Skip
from archiver.tiers.scan import scan


@pytest.fixture
def catalog(sqlite_catalog: Catalog) -> Catalog:
    return sqlite_catalog


@pytest.fixture
def tier(bucket: Bucket) -> Iterator[S3Tier]:
    with closing(S3Tier(bucket.settings())) as opened:
        yield opened


def known(catalog: Catalog, tier: S3Tier) -> dict[str, FileRow]:
    tier_id = catalog.ensure_tier(tier.name, "s3", tier.settings.root).id
    return {row.path: row for row in catalog.stream_files(tier_id)}


def record_all(catalog: Catalog, *, release: bool = False) -> None:
    """Record every file as it is; with `release` tell that it is released, too, and nothing stands in its place."""
    rows = list(catalog.stream_files(None))
    catalog.commit_records([new_record(row) for row in rows])
    for row in catalog.stream_files(None) if release else ():
        assert row.record_id is not None
        catalog.mark_released(row.id, row.record_id, version=row.version, holding=None)


def test_it_finds_images_by_their_keys(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    etag = bucket.put("2019/märz/a b+c.JPG", b"0123456789")
    bucket.put("top.png")
    bucket.put("2019/notes.txt")
    bucket.put("2019/raw.cr2")
    bucket.put(".archiver/holding/1-2.jpg")
    report = scan(catalog, tier)
    assert report.complete
    assert (report.files, report.changes.new, dict(report.unsupported)) == (2, 2, {"raw": 1})
    rows = known(catalog, tier)
    assert set(rows) == {"2019/märz/a b+c.JPG", "top.png"}
    row = rows["2019/märz/a b+c.JPG"]
    assert (row.directory, row.name) == ("2019/märz", "a b+c.JPG")
    assert (row.size, row.inode, row.state) == (10, etag64(etag), State.RESIDENT)
    assert row.mtime_ns // 10**9 == row.accessed_at
    summary = catalog.summary()[0]
    assert (summary.tier.kind, summary.tier.root) == ("s3", f"s3://{bucket.name}")
    assert summary.tier.first_scan_done_at is not None


def test_a_second_scan_finds_nothing_new_and_asks_for_no_object(
    catalog: Catalog, tier: S3Tier, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.jpg", "b/c.jpg", "b/d/e.jpg", "b-c/f.jpg", "b/d.jpg"):
        bucket.put(key)
    scan(catalog, tier)
    asked: list[str] = []
    monkeypatch.setattr(tier.store, "head", asked.append)
    changes = scan(catalog, tier).changes
    assert sum(changes) == 0
    assert asked == []


def test_keys_that_are_no_paths_are_counted_and_left_alone(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    class Odd:
        """What SeaweedFS, a tree, would not keep, but AWS does."""

        settings = tier.settings

        def pages(self, **_: object) -> Iterator[list[scanning.Listed]]:
            keys = ("/top.jpg", "2019/", "a/../b.jpg", "./c.jpg", "a//d.jpg", f"{'x/' * 1400}e.jpg")
            yield [scanning.Listed(key, "e", 1, 10**18, "STANDARD") for key in sorted(keys)]

    tier.adopt()
    odd = Odd()
    scan_of = scanning._Scan(catalog, tier, None, None)
    scan_of._pages = lambda: scanning.listed(odd)  # type: ignore[arg-type, method-assign]
    assert scan_of.run()
    assert set(known(catalog, tier)) == {"a//d.jpg"}
    report = scan_of.report(complete=True)
    assert report.skipped == {Skip.UNNAMEABLE: 3, Skip.MARKER: 1, Skip.TOO_DEEP: 1}


def test_a_prefix_is_all_it_sees(catalog: Catalog, bucket: Bucket) -> None:
    for key in ("phones/a.jpg", "phones-old/b.jpg", "phones/x/c.jpg", "d.jpg"):
        bucket.put(key)
    with closing(S3Tier(bucket.settings(prefix="phones"))) as tier:
        scan(catalog, tier)
        assert set(known(catalog, tier)) == {"a.jpg", "x/c.jpg"}
        assert str(tier.where("x/c.jpg")) == f"s3://{bucket.name}/phones/x/c.jpg"
    keys = bucket.keys()
    assert f"phones/{IDENTITY}" in keys


def test_excluded_keys_are_not_tracked_and_not_missing(catalog: Catalog, bucket: Bucket) -> None:
    for key in ("a/1.jpg", "a/thumbs/2.jpg"):
        bucket.put(key)
    with closing(S3Tier(bucket.settings())) as tier:
        scan(catalog, tier)
    with closing(S3Tier(bucket.settings(exclude=("thumbs/",)))) as tier:
        report = scan(catalog, tier)
        assert report.skipped == {Skip.EXCLUDED: 1}
        assert {path: row.state for path, row in known(catalog, tier).items()} == {
            "a/1.jpg": State.RESIDENT,
            "a/thumbs/2.jpg": State.RESIDENT,
        }


def test_deleted_objects_are_gone_and_come_back(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    for key in ("a.jpg", "b/1.jpg", "b/2.jpg", "b/c/3.jpg", "d/4.jpg"):
        bucket.put(key)
    scan(catalog, tier)
    for key in ("a.jpg", "b/2.jpg", "b/c/3.jpg", "d/4.jpg"):
        bucket.delete(key)
    assert scan(catalog, tier).changes.gone == 4
    states = {path: row.state for path, row in known(catalog, tier).items()}
    assert states.pop("b/1.jpg") == State.RESIDENT
    assert set(states.values()) == {State.GONE}
    assert sum(scan(catalog, tier).changes) == 0
    bucket.put("d/4.jpg")
    assert scan(catalog, tier).changes.returned == 1
    assert known(catalog, tier)["d/4.jpg"].state == State.RESIDENT


def test_an_overwritten_object_that_was_recorded_is_superseded(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    bucket.put("a.jpg")
    bucket.put("b.jpg")
    scan(catalog, tier)
    record_all(catalog)
    etag = bucket.put("a.jpg", b"another photograph")
    assert scan(catalog, tier).changes.superseded == 1
    rows = known(catalog, tier)
    assert (rows["a.jpg"].state, rows["a.jpg"].inode) == (State.SUPERSEDED, etag64(etag))
    assert rows["b.jpg"].state == State.RECORDED


def test_what_an_act_under_way_wrote_is_never_called_superseded(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    """A release that was cut off before its commit: settling it is not the scan's business."""
    bucket.put("a.jpg")
    scan(catalog, tier)
    record_all(catalog)
    bucket.put(".archiver/journal/1", b'{"owner": {}, "acts": [{"act": "release", "key": "a.jpg"}]}')
    bucket.put("a.jpg", b"placeholder", Metadata={"archiver-kind": "placeholder"})
    for _ in range(2):
        assert sum(scan(catalog, tier).changes) == 0
    assert sum(scan_keys(catalog, tier, ["a.jpg"]).changes) == 0
    assert known(catalog, tier)["a.jpg"].state == State.RECORDED


def test_an_edited_image_is_superseded_though_a_tool_kept_what_it_wore(
    catalog: Catalog, tier: S3Tier, bucket: Bucket
) -> None:
    bucket.put("a.jpg")
    scan(catalog, tier)
    record_all(catalog)
    bucket.put("a.jpg", b"edited by hand", Metadata={"archiver-kind": "generated"})
    assert scan(catalog, tier).changes.superseded == 1
    assert known(catalog, tier)["a.jpg"].state == State.SUPERSEDED


def test_the_same_bytes_again_are_a_use_and_no_change(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    bucket.put("a.jpg")
    scan(catalog, tier)
    record_all(catalog)
    before = known(catalog, tier)["a.jpg"]
    _later(bucket, "a.jpg", before)
    assert sum(scan(catalog, tier).changes) == 0
    after = known(catalog, tier)["a.jpg"]
    assert (after.state, after.version) == (State.RECORDED, before.version)
    assert after.accessed_at > before.accessed_at


def _later(bucket: Bucket, key: str, before: FileRow) -> None:
    """Write the same object again until the server's clock shows another second."""
    modified = before.mtime_ns
    while modified == before.mtime_ns:
        bucket.put(key)
        modified = int(bucket.client.head_object(Bucket=bucket.name, Key=key)["LastModified"].timestamp()) * 10**9


def test_packed_a_released_file_has_no_object_and_is_not_missing(catalog: Catalog, bucket: Bucket) -> None:
    with closing(S3Tier(bucket.settings(records="packed"))) as tier:
        for key in ("a.jpg", "b/c.jpg", "b/d.jpg"):
            bucket.put(key)
        scan(catalog, tier)
        record_all(catalog, release=True)
        for key in ("a.jpg", "b/c.jpg", "b/d.jpg"):
            bucket.delete(key)
        assert sum(scan(catalog, tier).changes) == 0
        assert {row.state for row in known(catalog, tier).values()} == {State.RELEASED}
        bucket.put("b/c.jpg", b"another photograph of that name")
        assert scan(catalog, tier).changes.superseded == 1


def test_an_object_that_an_act_is_changing_is_left_alone(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    for key in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        bucket.put(key)
    scan(catalog, tier)
    record_all(catalog)
    journal = '{"acts": [{"act": "release", "key": "a.jpg"}, {"act": "undo", "key": "b.jpg"}]}'
    bucket.put(".archiver/journal/1", journal.encode())
    bucket.delete("a.jpg")
    bucket.delete("c.jpg")
    bucket.put("b.jpg", b"in the middle of something")
    bucket.put("d.jpg", b"changed")
    changes = scan(catalog, tier).changes
    assert (changes.gone, changes.superseded) == (1, 1)
    bucket.delete(".archiver/journal/1")
    changes = scan(catalog, tier).changes
    assert (changes.gone, changes.superseded) == (1, 1)


def test_a_listing_that_forgets_an_object_makes_nothing_gone(
    catalog: Catalog, tier: S3Tier, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.jpg", "b/c.jpg", "b/d.jpg", "e/f.jpg"):
        bucket.put(key)
    scan(catalog, tier)
    pages = scanning.listed

    def forgetful(store: object) -> Iterator[list[scanning.Listed]]:
        for page in pages(store):  # type: ignore[arg-type]
            yield [entry for entry in page if entry.key not in ("b/c.jpg", "e/f.jpg")]

    monkeypatch.setattr(scanning, "listed", forgetful)
    assert sum(scan(catalog, tier).changes) == 0


def test_a_server_that_lists_nothing_any_more_makes_nothing_gone(
    catalog: Catalog, tier: S3Tier, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.jpg", "b/c.jpg", "b/d.jpg", "e/f.jpg"):
        bucket.put(key)
    scan(catalog, tier)
    bucket.delete("b/c.jpg")
    monkeypatch.setattr(tier.store, "pages", lambda *_: iter([[]]))
    assert scan(catalog, tier).changes.gone == 1
    assert all(known(catalog, tier)[key].state == State.RESIDENT for key in ("a.jpg", "b/d.jpg", "e/f.jpg"))


# -- unknown is not absent ---------------------------------------------------------------------------------------------


def test_a_stopped_scan_makes_nothing_gone(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    for key in ("a/1.jpg", "b/2.jpg", "c/3.jpg"):
        bucket.put(key)
    stop = threading.Event()
    stop.set()
    assert not scan(catalog, tier, stop=stop).complete
    assert catalog.summary()[0].tier.first_scan_done_at is None
    scan(catalog, tier)
    for key in ("a/1.jpg", "b/2.jpg"):
        bucket.delete(key)
    assert not scan(catalog, tier, stop=stop).complete
    assert {row.state for row in known(catalog, tier).values()} == {State.RESIDENT}


def test_a_server_that_stops_in_the_middle_makes_nothing_gone(
    catalog: Catalog, tier: S3Tier, bucket: Bucket, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    for number in range(30):
        bucket.put(f"{number:02}/a.jpg")
    scan(catalog, tier)
    pages = tier.store.pages

    def stopping(**wanted: str) -> Iterator[list[scanning.Listed]]:
        yield next(iter(pages(**wanted)))[:10]
        seaweed.stop()
        yield from pages(**wanted)

    monkeypatch.setattr(tier.store, "pages", stopping)
    try:
        with pytest.raises(TierUnreachable):
            scan(catalog, tier)
        summary = catalog.summary()[0]
        assert not summary.tier.reachable
        assert summary.of(State.RESIDENT).files == 30
        with pytest.raises(BucketUnreachable):
            scan_keys(catalog, tier, ["00/a.jpg"])
    finally:
        seaweed.start()
    monkeypatch.undo()
    assert sum(scan(catalog, tier).changes) == 0
    assert catalog.summary()[0].tier.reachable


@pytest.mark.parametrize("how", ["emptied", "another", "damaged", "no bucket"])
def test_another_bucket_is_not_taken_for_the_tier(catalog: Catalog, tier: S3Tier, bucket: Bucket, how: str) -> None:
    bucket.put("a.jpg")
    scan(catalog, tier)
    bucket.delete("a.jpg")
    bucket.delete(IDENTITY)
    if how == "no bucket":
        bucket.client.delete_bucket(Bucket=bucket.name)
    if how == "another":
        bucket.put(IDENTITY, b'{"tier": "00000000-0000-4000-8000-000000000000"}')
    if how == "damaged":
        bucket.put(IDENTITY, b"{")
    for attempt in (lambda: scan(catalog, tier), lambda: scan_keys(catalog, tier, ["a.jpg"])):
        with pytest.raises(TierUnreachable):
            attempt()
    assert known(catalog, tier)["a.jpg"].state == State.RESIDENT
    assert not catalog.summary()[0].tier.reachable


# -- single objects ----------------------------------------------------------------------------------------------------


def test_single_objects_are_brought_up_to_date(catalog: Catalog, tier: S3Tier, bucket: Bucket) -> None:
    with pytest.raises(TierNotScanned):
        scan_keys(catalog, tier, ["a.jpg"])
    for key in ("a.jpg", "b/c.jpg", "b/d.jpg"):
        bucket.put(key)
    scan(catalog, tier)
    bucket.delete("a.jpg")
    bucket.put("b/c.jpg", b"changed")
    bucket.delete("b/d.jpg")
    bucket.put("new/e.jpg")
    bucket.put("new/e.txt")
    wanted = ["a.jpg", "b/c.jpg", "new/e.jpg", "new/e.txt", "never/there.jpg", ".archiver/tier.json", "a.jpg"]
    changes = scan_keys(catalog, tier, wanted).changes
    assert (changes.new, changes.changed, changes.gone) == (1, 1, 1)
    rows = known(catalog, tier)
    assert (rows["a.jpg"].state, rows["b/d.jpg"].state) == (State.GONE, State.RESIDENT)
    assert rows["b/c.jpg"].size == 7
    assert sum(scan_keys(catalog, tier, wanted).changes) == 0
    assert scan(catalog, tier).changes.gone == 1


def test_a_directory_of_any_size_is_compared_in_pieces(
    catalog: Catalog, tier: S3Tier, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_TOGETHER", 3)
    monkeypatch.setattr(scanning, "_PAGE", 2)
    names = [f"{number:02}.jpg" for number in range(20)]
    for name in names:
        bucket.put(f"flat/{name}")
        bucket.put(f"flat/below/{name}")
    assert scan(catalog, tier).changes.new == 40
    for name in names[::2]:
        bucket.delete(f"flat/{name}")
    for name in names[1::4]:
        bucket.put(f"flat/{name}", b"changed")
    bucket.put("flat/00a.jpg")
    changes = scan(catalog, tier).changes
    assert (changes.new, changes.changed, changes.gone) == (1, 5, 10)
    assert sum(scan(catalog, tier).changes) == 0
