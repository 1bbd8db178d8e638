"""Buckets of real pictures, and what a user, or an administrator, sees of them behind archiver's back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from archiver import formats
from archiver.catalog.rows import FileRow, State
from archiver.catalog.schema import upgrade
from archiver.config import S3TierSettings, Settings
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.s3.address import ObjectUrl
from archiver.s3.keeper import S3Keeper
from archiver.tiers.scan import scan
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import LAX_GATE, exif_bytes, photograph

TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "TIFF": "image/tiff"}


def picture(seed: int, kind: str = "JPEG", size: tuple[int, int] = (320, 240)) -> bytes:
    """The bytes of a picture of some format."""
    file = BytesIO()
    more: dict[str, Any] = {"quality": 90, "exif": exif_bytes(1)} if kind == "JPEG" else {}
    photograph(seed, size).save(file, kind, **more)
    return file.getvalue()


PICTURES = {
    "2019/a.jpg": ("JPEG", 1),
    "2019/summer/b c+é.jpg": ("JPEG", 2),
    "2019/d.png": ("PNG", 3),
    "wide.webp": ("WEBP", 4),
}


@dataclass
class World:
    """A bucket with photographs, the settings of a tier in it, and the originals as they were put there."""

    bucket: Bucket
    settings: Settings
    originals: dict[str, bytes] = field(default_factory=dict)

    @property
    def tier(self) -> S3TierSettings:
        (tier,) = self.settings.tier
        assert isinstance(tier, S3TierSettings)
        return tier

    def fill(self, pictures: dict[str, tuple[str, int]] | None = None) -> None:
        """Put pictures there as a program of a user would: with type, metadata and tags."""
        for key, (kind, seed) in (PICTURES if pictures is None else pictures).items():
            self.originals[key] = picture(seed, kind)
            self.bucket.put(
                self.tier.prefix + key,
                self.originals[key],
                ContentType=TYPES[kind],
                CacheControl="max-age=3600",
                Metadata={"photographer": "somebody", "seed": str(seed)},
                Tagging=urlencode({"album": "summer", "seed": str(seed)}),
            )

    @contextmanager
    def site(self, *, scanned: bool = True, settled: bool = True) -> Iterator[Site]:
        """A process of archiver, with what earlier ones left settled, and the bucket scanned."""
        upgrade(self.settings.catalog_url)
        with open_site(self.settings) as site:
            if settled:
                assert not reconcile(site).exit_code
            if scanned:
                self.scan(site)
            yield site

    def scan(self, site: Site) -> None:
        assert scan(site.catalog, site.tiers["bucket"]).complete

    def url(self, key: str = "") -> ObjectUrl:
        return ObjectUrl(self.bucket.name, self.tier.prefix + key)

    def row(self, site: Site, key: str) -> FileRow:
        row = site.catalog.find(site.tier_ids["bucket"], key)
        assert row is not None, key
        return row

    def states(self, site: Site) -> dict[str, State]:
        return {key: self.row(site, key).state for key in self.originals}

    # -- behind archiver's back ----------------------------------------------------------------------------------------

    def head(self, key: str, **others: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.bucket.client.head_object(
            Bucket=self.bucket.name, Key=self.tier.prefix + key, **others
        )
        return found

    def get(self, key: str, **others: Any) -> bytes:
        return self.bucket.get(self.tier.prefix + key, **others)

    def tags(self, key: str) -> dict[str, str]:
        answer = self.bucket.client.get_object_tagging(Bucket=self.bucket.name, Key=self.tier.prefix + key)
        return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}

    def ours(self, folder: str) -> list[str]:
        """What lies in a folder of archiver's own."""
        whole = f"{self.tier.prefix}.archiver/{folder}/"
        there = self.bucket.keys()
        return [key.removeprefix(whole) for key in there if key.startswith(whole)]

    def users(self) -> list[str]:
        """The keys of users' objects."""
        there = self.bucket.keys()
        keys = [key.removeprefix(self.tier.prefix) for key in there]
        return [key for key in keys if not key.startswith(".archiver/")]

    def stands(self, key: str) -> formats.Kind | None:
        """What stands at a key: a placeholder, a generated image, or (None) the original itself, byte for byte.

        Whatever it is, it is a whole picture, and what is ours says so and knows the original.
        """
        data = self.get(key)
        Image.open(BytesIO(data)).load()
        envelope = formats.read_envelope(BytesIO(data))
        if envelope is None:
            assert data == self.originals[key], f"{key} is neither the original nor carries a record"
            return None
        assert envelope.source.sha256 == sha256(self.originals[key]).digest(), key
        assert self.head(key)["Metadata"]["archiver-kind"] == envelope.kind
        return envelope.kind


def keeper(site: Site) -> S3Keeper:
    found = site.keeper(site.tiers["bucket"])
    assert isinstance(found, S3Keeper)
    return found


def make_world(
    state: Path, bucket: Bucket, vault: Path, *, scheme: str = "sgc", grace: str = "30d", most: int = 9, **tier: Any
) -> World:
    """A tier that is this bucket, below "photos/", with pictures and a rule that releases everything."""
    common = {"unused_for": "0s", "unchanged_for": "0s", "min_size": 0}
    where = {"name": "bucket", "kind": "s3", "bucket": bucket.name, "endpoint": bucket.endpoint, "prefix": "photos/"}
    settings = Settings.model_validate(
        {
            "catalog": {"url": f"sqlite:///{state}/catalog.db"},
            "vault": {"path": str(vault)},
            "model": {"profile": "random-7", "preset": "draft", "batch": 4},
            "release": {"min_free": 0, "grace": grace},
            "tier": [where | tier],
            "rule": [{"name": "all", "scheme": scheme, "gate": LAX_GATE, **common}],
        }
    )
    world = World(bucket, settings)
    world.fill(dict(list(PICTURES.items())[:most]))
    return world
