"""S3 Inventory: the server's own daily or weekly list of a bucket, for those too large to be listed.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html: a manifest.json names data files in CSV
(gzip) or Parquet with their MD5; the manifest's own stands beside it in manifest.checksum. Keys are sorted within no
more than one data file, so they are brought into order first: sorted runs on disk, merged. A report is a day old or
older: what it tells is checked where it differs from the catalog (`archiver.s3.doubts`).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import heapq
import json
import marshal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import IO, Any
from urllib.parse import unquote_plus

from archiver.errors import InventoryUnusable, ObjectMissing
from archiver.s3.address import ObjectUrl
from archiver.s3.store import Listed, ObjectStore, whole_seconds
from archiver.s3.tier import S3Tier

_LONGEST_MANIFEST = 64 << 20
_RUN = 200_000  # objects sorted in memory at a time
_PAGE = 1000
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class _DataFile:
    """One data file of a report, by its key in the report's bucket."""

    key: str
    md5: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """A report that was found, its manifest checked. Use `open_inventory`."""

    tier: S3Tier
    store: ObjectStore  # of the bucket that holds the report
    manifest: ObjectUrl
    created: datetime
    format: str  # "CSV" or "Parquet"
    columns: tuple[str, ...]
    files: tuple[_DataFile, ...]

    def pages(self) -> Iterator[list[Listed]]:
        """The tier's objects in the order of their keys. Raises InventoryUnusable, BucketUnreachable."""
        with ExitStack() as opened:
            runs = [self._sorted_run(run, opened) for run in _portions(self._objects(), _RUN)]
            merged = heapq.merge(*(_read_run(file) for file in runs))
            while page := list(islice(merged, _PAGE)):
                yield page

    def _sorted_run(self, run: list[Listed], opened: ExitStack) -> IO[bytes]:
        file = opened.enter_context(_scratch())
        for entry in sorted(run):
            marshal.dump(tuple(entry), file)
        file.seek(0)
        return file

    def _objects(self) -> Iterator[Listed]:
        prefix = self.tier.settings.prefix
        for data in self.files:
            with self._fetched(data) as file:
                rows = self._csv(file) if self.format == "CSV" else self._parquet(file)
                for row in rows:
                    if row["Key"].startswith(prefix) and _is_object(row):
                        yield self._listed(row, len(prefix))

    def _fetched(self, data: _DataFile) -> IO[bytes]:
        """A data file, whole and as its MD5 says, at its beginning."""
        file = _scratch()
        try:
            digest = hashlib.md5(usedforsecurity=False)
            _, stream = self.store.get(data.key)
            with stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != data.md5.lower():
                raise self._unusable(f"{data.key} is not as its MD5 says")
            file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, ObjectMissing):
                raise self._unusable(error.message) from error
            raise
        return file

    def _csv(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
            for row in csv.reader(text):
                named = dict(zip(self.columns, row, strict=False))
                named["Key"] = unquote_plus(named["Key"])
                yield named

    def _parquet(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        try:
            from pyarrow import parquet
        except ImportError:
            raise self._unusable("it is Parquet, and pyarrow is not installed") from None
        names = {_plain(name): name for name in self.columns}
        for batch in parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                yield {names.get(_plain(name), name): value for name, value in row.items()}

    def _listed(self, row: dict[str, Any], top: int) -> Listed:
        try:
            modified = row["LastModifiedDate"]
            at = modified if isinstance(modified, datetime) else datetime.fromisoformat(modified)
            if at.tzinfo is None:
                at = at.replace(tzinfo=UTC)
            return Listed(
                row["Key"][top:],
                row["ETag"].strip('"'),
                int(row["Size"]),
                whole_seconds(at),
                row.get("StorageClass") or "STANDARD",
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unusable(f"object {row['Key']!r}: {error!r}") from error

    def _unusable(self, problem: str) -> InventoryUnusable:
        return InventoryUnusable(path=self.manifest, problem=problem)


def open_inventory(tier: S3Tier) -> Inventory:
    """The report that the tier's `inventory` names: of a folder the newest one, its manifest checked.

    Raises InventoryUnusable, BucketUnreachable.
    """
    wanted = ObjectUrl.parse(tier.settings.inventory or "")
    store = ObjectStore(tier.settings.model_copy(update={"bucket": wanted.bucket, "prefix": ""}))
    key = wanted.key if wanted.name == _MANIFEST else _newest(store, wanted)
    url = ObjectUrl(wanted.bucket, key)
    try:
        text = store.read(key, limit=_LONGEST_MANIFEST)
        checksum = store.read(key.removesuffix("json") + "checksum", limit=1024)
    except ObjectMissing as error:
        raise InventoryUnusable(path=url, problem=error.message) from error
    if hashlib.md5(text, usedforsecurity=False).hexdigest() != checksum.decode("ascii", "replace").strip().lower():
        raise InventoryUnusable(path=url, problem="the manifest is not as manifest.checksum says")
    return _parsed(tier, store, url, text)


def _newest(store: ObjectStore, folder: ObjectUrl) -> str:
    """Reports lie in folders named by their time (2026-01-31T01-00Z/), so the last manifest is the newest."""
    prefix = folder.key.rstrip("/") + "/"
    manifests = [entry.key for entry in store.list(prefix) if entry.key.endswith(f"Z/{_MANIFEST}")]
    if not manifests:
        raise InventoryUnusable(path=folder, problem="there is no report below it")
    return max(manifests)


def _parsed(tier: S3Tier, store: ObjectStore, url: ObjectUrl, text: bytes) -> Inventory:
    try:
        told = json.loads(text)
        source, kind = told["sourceBucket"], told["fileFormat"]
        created = datetime.fromtimestamp(int(told["creationTimestamp"]) / 1000, UTC)
        columns = tuple(column.strip() for column in told["fileSchema"].split(","))
        files = tuple(_DataFile(file["key"], file["MD5checksum"]) for file in told["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InventoryUnusable(path=url, problem=f"the manifest cannot be read: {error!r}") from error
    if kind == "Parquet":
        columns = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate", "ETag")
        columns += ("StorageClass",)
    elif kind != "CSV":
        raise InventoryUnusable(path=url, problem=f"its format is {kind}, neither CSV nor Parquet")
    if source != tier.settings.bucket:
        raise InventoryUnusable(path=url, problem=f"it is of bucket {source}")
    if lacking := [name for name in ("Key", "Size", "LastModifiedDate", "ETag") if name not in columns]:
        problem = f"it does not tell {', '.join(lacking)}: add these fields to the inventory configuration"
        raise InventoryUnusable(path=url, problem=problem)
    return Inventory(tier, store, url, created, kind, columns, files)


def _is_object(row: dict[str, Any]) -> bool:
    """Whether a row tells of what a plain GET finds: neither an older version nor a delete marker."""
    # CSV has words, Parquet has truth values, and a report of current versions alone has neither.
    latest, marker = (str(row.get(name)).lower() for name in ("IsLatest", "IsDeleteMarker"))
    return latest != "false" and marker != "true"


def _plain(name: str) -> str:
    """ "last_modified_date" of a Parquet column and "LastModifiedDate" of a CSV one are the same."""
    return name.replace("_", "").lower()


def _scratch() -> IO[bytes]:
    """A file without a name, which vanishes when it is closed."""
    return tempfile.TemporaryFile(prefix="archiver-inventory-")


def _portions(objects: Iterable[Listed], most: int) -> Iterator[list[Listed]]:
    iterator = iter(objects)
    while portion := list(islice(iterator, most)):
        yield portion


def _read_run(file: IO[bytes]) -> Iterator[Listed]:
    while True:
        try:
            yield Listed(*marshal.load(file))
        except EOFError:
            return
