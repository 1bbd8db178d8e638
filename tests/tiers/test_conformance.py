"""What holds for a tier of any kind: the same promises, on a real filesystem and on a real S3 server."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from fixtures_catalog import new_record
from fixtures_s3 import Bucket

from archiver.catalog import Catalog
from archiver.catalog.rows import Applied, FileRow, State
from archiver.config import LocalTierSettings
from archiver.errors import FileModified, TierUnreachable
from archiver.s3.tier import IDENTITY
from archiver.tiers.opening import open_tier
from archiver.tiers.protocol import Tier
from archiver.tiers.scan import scan


class Place(Protocol):
    """Where a tier lies, changed behind its back."""

    def tier(self, exclude: tuple[str, ...] = ()) -> Tier: ...

    def put(self, path: str, content: bytes = b"photograph") -> None: ...

    def delete(self, path: str) -> None: ...

    def tag(self, path: str, word: str) -> None: ...

    def become_another(self) -> None:
        """Something else stands where the tier was: another disk, another bucket."""

    def go_away(self) -> None:
        """Nothing stands there any more."""


class Folder:
    """A folder of a filesystem."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tier"
        self.root.mkdir()

    def tier(self, exclude: tuple[str, ...] = ()) -> Tier:
        return open_tier(LocalTierSettings(name="photos", path=self.root, exclude=exclude))

    def put(self, path: str, content: bytes = b"photograph") -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def delete(self, path: str) -> None:
        (self.root / path).unlink()

    def tag(self, path: str, word: str) -> None:
        try:
            os.setxattr(self.root / path, "user.xdg.tags", word.encode())
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            pytest.skip("no extended attributes here")

    def become_another(self) -> None:
        self.go_away()
        self.root.mkdir()

    def go_away(self) -> None:
        # Kept beside it: a new folder must not get the old one's inode.
        shutil.move(self.root, self.root.with_name("elsewhere"))


class Objects:
    """A bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def tier(self, exclude: tuple[str, ...] = ()) -> Tier:
        return open_tier(self.bucket.settings(name="photos", prefix="2019", exclude=exclude))

    def put(self, path: str, content: bytes = b"photograph") -> None:
        self.bucket.put(f"2019/{path}", content)

    def delete(self, path: str) -> None:
        self.bucket.delete(f"2019/{path}")

    def tag(self, path: str, word: str) -> None:
        tags = {"TagSet": [{"Key": word, "Value": ""}]}
        self.bucket.client.put_object_tagging(Bucket=self.bucket.name, Key=f"2019/{path}", Tagging=tags)

    def become_another(self) -> None:
        self._clear()
        self.bucket.put(f"2019/{IDENTITY}", b'{"tier": "00000000-0000-4000-8000-000000000000"}')

    def go_away(self) -> None:
        self._clear()
        self.bucket.client.delete_bucket(Bucket=self.bucket.name)

    def _clear(self) -> None:
        keys = self.bucket.keys()
        for key in keys:
            self.bucket.delete(key)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return Folder(request.getfixturevalue("folder"))
    return Objects(request.getfixturevalue("bucket"))


@pytest.fixture
def tier(place: Place) -> Iterator[Tier]:
    opened = place.tier()
    yield opened
    opened.close()


def known(catalog: Catalog) -> dict[str, FileRow]:
    return {row.path: row for row in catalog.stream_files(None)}


def states(catalog: Catalog) -> dict[str, State]:
    return {path: row.state for path, row in known(catalog).items()}


def record(catalog: Catalog, *paths: str) -> None:
    catalog.commit_records([new_record(row) for path, row in known(catalog).items() if path in paths])


def test_a_files_full_name_reads_back(tier: Tier) -> None:
    for path in ("", "a.jpg", "sub/ü b/c.jpg"):
        assert tier.relative(tier.where(path)) == path
    assert str(tier.where("")) == tier.settings.root
    assert str(tier.where("a.jpg")) == f"{tier.settings.root}/a.jpg"


def test_a_scan_knows_what_there_is(catalog: Catalog, place: Place, tier: Tier) -> None:
    for path in ("a.jpg", "sub/ü b/c.PNG", "sub/d.webp", "sub/notes.txt", "sub/raw.nef", ".archiver/holding/e.jpg"):
        place.put(path, path.encode())
    report = scan(catalog, tier)
    assert report.complete
    assert (report.files, report.warned, dict(report.unsupported)) == (3, 0, {"raw": 1})
    rows = known(catalog)
    assert {path: row.size for path, row in rows.items()} == {"a.jpg": 5, "sub/ü b/c.PNG": 14, "sub/d.webp": 10}
    assert scan(catalog, tier).changes == Applied()
    assert known(catalog) == rows


def test_a_scan_sees_every_change(catalog: Catalog, place: Place, tier: Tier) -> None:
    for path in ("a.jpg", "b/1.jpg", "b/2.jpg", "c/d/3.jpg"):
        place.put(path)
    scan(catalog, tier)
    record(catalog, "b/1.jpg", "b/2.jpg")
    place.put("b/1.jpg", b"another photograph")
    place.put("a.jpg", b"another photograph")
    place.delete("b/2.jpg")
    place.delete("c/d/3.jpg")
    place.put("c/4.jpg")
    assert scan(catalog, tier).changes == Applied(new=1, changed=1, superseded=1, gone=2)
    assert states(catalog) == {
        "a.jpg": State.RESIDENT,
        "b/1.jpg": State.SUPERSEDED,
        "b/2.jpg": State.GONE,
        "c/4.jpg": State.RESIDENT,
        "c/d/3.jpg": State.GONE,
    }
    assert scan(catalog, tier).changes == Applied()


def test_what_comes_back_is_seen(catalog: Catalog, place: Place, tier: Tier) -> None:
    place.put("a.jpg")
    place.put("b.jpg")
    scan(catalog, tier)
    place.delete("a.jpg")
    scan(catalog, tier)
    place.put("a.jpg")
    assert scan(catalog, tier).changes == Applied(returned=1)
    assert states(catalog)["a.jpg"] == State.RESIDENT


def test_what_is_excluded_later_is_neither_tracked_nor_gone(catalog: Catalog, place: Place, tier: Tier) -> None:
    place.put("a.jpg")
    place.put("thumbs/a.jpg")
    scan(catalog, tier)
    narrow = place.tier(exclude=("thumbs/",))
    place.put("thumbs/b.jpg")
    assert scan(catalog, narrow).changes == Applied()
    narrow.close()
    assert states(catalog) == {"a.jpg": State.RESIDENT, "thumbs/a.jpg": State.RESIDENT}


@pytest.mark.parametrize("how", ["another", "nothing"])
def test_a_tier_that_is_not_there_has_lost_nothing(catalog: Catalog, place: Place, tier: Tier, how: str) -> None:
    place.put("a.jpg")
    scan(catalog, tier)
    tier.close()
    if how == "another":
        place.become_another()
    else:
        place.go_away()
    for act in (lambda: scan(catalog, tier), tier.check):
        with pytest.raises(TierUnreachable):
            act()
    assert states(catalog) == {"a.jpg": State.RESIDENT}
    assert not catalog.summary()[0].tier.reachable


def test_a_scan_that_is_stopped_takes_nothing_for_gone(catalog: Catalog, place: Place, tier: Tier) -> None:
    place.put("a/1.jpg")
    place.put("b/2.jpg")
    scan(catalog, tier)
    place.delete("a/1.jpg")
    stop = threading.Event()
    stop.set()
    assert not scan(catalog, tier, stop=stop).complete
    assert set(states(catalog).values()) == {State.RESIDENT}
    assert scan(catalog, tier).changes.gone == 1


def test_a_tier_goes_on_after_it_was_closed(catalog: Catalog, place: Place, tier: Tier) -> None:
    place.put("a.jpg")
    scan(catalog, tier)
    tier.close()
    tier.close()
    place.put("b.jpg")
    assert scan(catalog, tier).changes.new == 1
    assert str(tier.check()) == catalog.tiers()[0].identity


def test_only_what_the_catalog_knows_is_looked_into(catalog: Catalog, place: Place, tier: Tier) -> None:
    place.put("a.jpg", bytes(range(200)))
    scan(catalog, tier)
    row = known(catalog)["a.jpg"]
    with tier.peek(row) as file:
        assert file.read(10) == bytes(range(10))
        file.seek(190)
        assert file.read() == bytes(range(190, 200))
    place.put("a.jpg", b"changed")
    with pytest.raises(FileModified), tier.peek(row):
        pass


def test_tags_are_told(catalog: Catalog, place: Place, tier: Tier) -> None:
    place.put("a.jpg")
    scan(catalog, tier)
    row = known(catalog)["a.jpg"]
    assert tier.tags(row) == frozenset()
    place.tag("a.jpg", "favourite")
    assert tier.tags(row) == frozenset({"favourite"})
