"""Promises of inventory reports: they stand for a listing, and are believed no further than they can be checked."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from fixtures_s3 import Bucket

from archiver.catalog import Catalog
from archiver.catalog.rows import State
from archiver.errors import InventoryUnusable
from archiver.s3 import inventory as inventories
from archiver.s3.inventory import open_inventory
from archiver.s3.tier import S3Tier
from archiver.tiers.scan import scan

COLUMNS = (
    "Bucket",
    "Key",
    "VersionId",
    "IsLatest",
    "IsDeleteMarker",
    "Size",
    "LastModifiedDate",
    "ETag",
    "StorageClass",
)
FOLDER = "reports/photos/daily"
FIRST = "2026-01-31T01-00Z"


@pytest.fixture
def reports(make_bucket: Any) -> Bucket:
    """The bucket that reports are written to."""
    bucket: Bucket = make_bucket()
    return bucket


@pytest.fixture
def tier(bucket: Bucket, reports: Bucket) -> Iterator[S3Tier]:
    with closing(S3Tier(bucket.settings(inventory=f"s3://{reports.name}/{FOLDER}/"))) as opened:
        yield opened


class Reporter:
    """Writes reports of a bucket as S3 does."""

    def __init__(self, bucket: Bucket, reports: Bucket) -> None:
        self.bucket, self.reports = bucket, reports

    def rows(self) -> list[dict[str, Any]]:
        """What there is now, in the order of the keys, and what only a report of versions has."""
        pages = self.bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name)
        there = [entry for page in pages for entry in page.get("Contents", ())]
        return [
            {
                "Bucket": self.bucket.name,
                "Key": entry["Key"],
                "VersionId": "",
                "IsLatest": True,
                "IsDeleteMarker": False,
                "Size": entry["Size"],
                "LastModifiedDate": entry["LastModified"].replace(microsecond=0),
                "ETag": entry["ETag"].strip('"'),
                "StorageClass": "STANDARD",
            }
            for entry in there
        ]

    def write(
        self, rows: list[dict[str, Any]], *, at: str = "2026-01-31T01-00Z", kind: str = "CSV", **told: Any
    ) -> None:
        """A report in two data files, the second half first, as nothing says that they are in order."""
        half = len(rows) // 2
        files = []
        for number, part in enumerate((rows[half:], rows[:half])):
            data = _csv(part) if kind == "CSV" else _parquet(part)
            key = f"reports/data/{at}-{number}"
            self.reports.put(key, data)
            files.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
        manifest = {
            "sourceBucket": self.bucket.name,
            "destinationBucket": f"arn:aws:s3:::{self.reports.name}",
            "version": "2016-11-30",
            "creationTimestamp": "1769821200000",
            "fileFormat": kind,
            "fileSchema": ", ".join(COLUMNS) if kind == "CSV" else "message s3.inventory { required binary bucket; }",
            "files": files,
        } | told
        text = json.dumps(manifest).encode()
        self.reports.put(f"{FOLDER}/{at}/manifest.json", text)
        self.reports.put(f"{FOLDER}/{at}/manifest.checksum", hashlib.md5(text).hexdigest().encode() + b"\n")


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    for row in rows:
        told = row | {
            "Key": quote_plus(row["Key"], safe="/"),
            "IsLatest": str(row["IsLatest"]).lower(),
            "IsDeleteMarker": str(row["IsDeleteMarker"]).lower(),
            "LastModifiedDate": row["LastModifiedDate"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        }
        writer.writerow([told[name] for name in COLUMNS])
    return gzip.compress(text.getvalue().encode())


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    names = dict(zip(COLUMNS, ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size"), strict=False))
    names |= {"LastModifiedDate": "last_modified_date", "ETag": "e_tag", "StorageClass": "storage_class"}
    table = pyarrow.Table.from_pylist([{names[name]: row[name] for name in COLUMNS} for row in rows])
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


@pytest.fixture
def reporter(bucket: Bucket, reports: Bucket) -> Reporter:
    return Reporter(bucket, reports)


def states(catalog: Catalog) -> dict[str, State]:
    return {row.path: row.state for row in catalog.stream_files(None)}


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_a_report_is_read_as_a_listing_would_be(
    kind: str,
    sqlite_catalog: Catalog,
    tier: S3Tier,
    bucket: Bucket,
    reporter: Reporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inventories, "_RUN", 3)
    for key in ("z.jpg", "2019/ü b+c%20.jpg", "2019/a.jpg", "2019/b/1.jpg", "2019/b/2.jpg", "2018/x.jpg", "no.txt"):
        bucket.put(key, key.encode())
    rows = reporter.rows()
    older = rows[0] | {"IsLatest": False, "ETag": "0" * 32}
    marker = rows[1] | {"Key": "deleted.jpg", "IsDeleteMarker": True}
    reporter.write([*rows, older, marker], kind=kind)
    assert scan(sqlite_catalog, tier).changes.new == 6
    with closing(S3Tier(bucket.settings())) as listed:
        assert sum(scan(sqlite_catalog, listed).changes) == 0
    assert sum(scan(sqlite_catalog, tier).changes) == 0


def test_a_report_a_day_old_takes_nothing_away_and_overwrites_nothing(
    sqlite_catalog: Catalog, tier: S3Tier, bucket: Bucket, reporter: Reporter
) -> None:
    for key in ("a.jpg", "b/1.jpg", "b/2.jpg"):
        bucket.put(key)
    reporter.write(reporter.rows())
    bucket.put("new/c.jpg")
    bucket.put("b/3.jpg")
    bucket.put("b/1.jpg", b"written since")
    bucket.delete("b/2.jpg")
    with closing(S3Tier(bucket.settings())) as listed:
        scan(sqlite_catalog, listed)
    before = {row.path: row for row in sqlite_catalog.stream_files(None)}
    scan(sqlite_catalog, tier)
    after = {row.path: row for row in sqlite_catalog.stream_files(None)}
    assert {path: after[path] for path in before} == before


def test_the_newest_report_is_taken(sqlite_catalog: Catalog, tier: S3Tier, bucket: Bucket, reporter: Reporter) -> None:
    bucket.put("a.jpg")
    reporter.write(reporter.rows(), at=FIRST)
    bucket.put("b.jpg")
    reporter.write(reporter.rows(), at="2026-02-01T01-00Z")
    reporter.reports.put(f"{FOLDER}/hive/dt=2026-03-01-01-00/symlink.txt")
    assert open_inventory(tier).manifest.key == f"{FOLDER}/2026-02-01T01-00Z/manifest.json"
    scan(sqlite_catalog, tier)
    assert set(states(sqlite_catalog)) == {"a.jpg", "b.jpg"}
    named = f"s3://{reporter.reports.name}/{FOLDER}/{FIRST}/manifest.json"
    with closing(S3Tier(bucket.settings(inventory=named))) as older:
        assert open_inventory(older).created == datetime(2026, 1, 31, 1, tzinfo=UTC)
        assert [entry.key for page in open_inventory(older).pages() for entry in page] == ["a.jpg"]


def test_a_prefix_takes_its_part_of_a_report(bucket: Bucket, reporter: Reporter) -> None:
    for key in ("phones/a.jpg", "phones-old/b.jpg"):
        bucket.put(key)
    reporter.write(reporter.rows())
    inventory = f"s3://{reporter.reports.name}/{FOLDER}"
    with closing(S3Tier(bucket.settings(prefix="phones", inventory=inventory))) as tier:
        assert [entry.key for page in open_inventory(tier).pages() for entry in page] == ["a.jpg"]


@pytest.mark.parametrize(
    "how", ["none", "manifest", "checksum", "data", "short", "bucket", "format", "fields", "json", "lost"]
)
def test_a_report_that_is_not_whole_changes_nothing(
    how: str, sqlite_catalog: Catalog, tier: S3Tier, bucket: Bucket, reporter: Reporter
) -> None:
    for key in ("a.jpg", "b.jpg"):
        bucket.put(key)
    with closing(S3Tier(bucket.settings())) as listed:
        scan(sqlite_catalog, listed)
    rows, place = reporter.rows(), f"{FOLDER}/{FIRST}"
    for key in ("a.jpg", "b.jpg"):
        bucket.delete(key)
    wrong: dict[str, dict[str, Any]] = {
        "bucket": {"sourceBucket": "another"},
        "format": {"fileFormat": "ORC"},
        "fields": {"fileSchema": "Bucket, Key"},
        "json": {"files": [1]},
    }
    if how != "none":
        reporter.write(rows, **wrong.get(how, {}))
    if how == "manifest":
        reporter.reports.put(f"{place}/manifest.json", b"{}")
    if how == "checksum":
        reporter.reports.delete(f"{place}/manifest.checksum")
    if how == "data":
        reporter.reports.put(f"reports/data/{FIRST}-1", _csv(rows))
    if how == "short":
        reporter.reports.put(f"reports/data/{FIRST}-0", b"")
    if how == "lost":
        reporter.reports.delete(f"reports/data/{FIRST}-0")
    with pytest.raises(InventoryUnusable, match=r"s3://.*" + FOLDER):
        scan(sqlite_catalog, tier)
    assert set(states(sqlite_catalog).values()) == {State.RESIDENT}
