"""A tier that is a bucket and prefix: whether it is really there, and what its objects are called."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, Literal

from archiver.catalog.rows import FileRow
from archiver.config import S3TierSettings
from archiver.config_tiers import AREA
from archiver.errors import (
    ArchiverError,
    BucketUnreachable,
    ObjectChanged,
    ObjectMissing,
    ObjectsNotInstalled,
    TierUnreachable,
)
from archiver.s3.address import ObjectUrl
from archiver.tiers.protocol import Where

if TYPE_CHECKING:
    from archiver.s3.store import ObjectStore

IDENTITY = f"{AREA}/tier.json"
OWNER = f"{AREA}/catalog"
HOLDING = f"{AREA}/holding/"
JOURNAL = f"{AREA}/journal/"
PACKS = f"{AREA}/packs/"

_LONGEST_IDENTITY = 4096


class S3Tier:
    """One configured tier in a bucket, for any number of threads. Connects when first used."""

    kind: Literal["s3"] = "s3"

    def __init__(self, settings: S3TierSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self._expected: str | None = None

    @cached_property
    def store(self) -> ObjectStore:
        """Its objects. Raises ObjectsNotInstalled."""
        try:
            from archiver.s3.store import ObjectStore  # boto3 takes half a second, which a status should not pay
        except ModuleNotFoundError as error:
            raise ObjectsNotInstalled() from error

        return ObjectStore(self.settings)

    def url(self, relative: str = "") -> ObjectUrl:
        """The name of an object, or of the tier itself, for people."""
        prefix = self.settings.prefix
        return ObjectUrl(self.settings.bucket, prefix + relative if relative else prefix.rstrip("/"))

    where = url

    def relative(self, url: Where) -> str | None:
        """The key of an object relative to this tier; None where it lies in another."""
        if (
            not isinstance(url, ObjectUrl)
            or url.bucket != self.settings.bucket
            or not f"{url.key}/".startswith(self.settings.prefix)
        ):
            return None
        return url.key[len(self.settings.prefix) :].strip("/")

    # -- reachability --------------------------------------------------------------------------------------------------

    def expect(self, identity: str | None) -> None:
        """Tell what the catalog remembers as this tier's identity; None before the first scan."""
        self._expected = identity or None

    def check(self) -> str:
        """Look again whether the tier is there: its identity, "" where it has none yet. Raises TierUnreachable."""
        try:
            found = self._identity()
        except TierUnreachable:
            raise
        except ObjectsNotInstalled as error:
            raise BucketUnreachable(tier=self.name, reason=f"{error.message}: {error.hint}") from error
        except ArchiverError as error:
            raise BucketUnreachable(tier=self.name, reason=error.message) from error
        if self._expected is not None and found != self._expected:
            problem = "is not there" if not found else "is that of another tier"
            raise BucketUnreachable(tier=self.name, reason=f"{self.url(IDENTITY)} {problem}: is it the right bucket?")
        return found

    def adopt(self) -> str:
        """Give the tier an identity, if it has none: from its first scan on only this bucket and prefix is the tier.

        Raises TierUnreachable, PermissionRefused.
        """
        if found := self.check():
            return found
        text = json.dumps({"tier": str(uuid.uuid4()), "name": self.name}) + "\n"
        with suppress(ObjectChanged):  # another process was faster
            self.store.put(IDENTITY, text.encode(), if_none_match=True)
        return self.check()

    def _identity(self) -> str:
        try:
            text = self.store.read(IDENTITY, limit=_LONGEST_IDENTITY)
        except ObjectMissing:
            return ""
        try:
            return str(uuid.UUID(json.loads(text)["tier"]))
        except (ValueError, KeyError, TypeError):
            raise BucketUnreachable(tier=self.name, reason=f"{self.url(IDENTITY)} is damaged") from None

    def owner(self) -> str:
        """The identity of the catalog that it is archived with, "" before the first release. Raises ArchiverError."""
        try:
            return self.store.read(OWNER, limit=_LONGEST_IDENTITY).decode("ascii", "replace").strip()
        except ObjectMissing:
            return ""

    def own(self, catalog: str, *, instead: bool = False) -> None:
        """Say which catalog it is archived with: where nobody said so yet, or `instead` of who did.

        Raises ArchiverError.
        """
        with suppress(ObjectChanged):  # another process was faster
            self.store.put(OWNER, f"{catalog}\n".encode("ascii"), if_none_match=not instead)

    def close(self) -> None:
        """Let go of all connections; the next use opens them again."""
        store = self.__dict__.pop("store", None)
        if store is not None:
            store.close()

    # -- looking into objects ------------------------------------------------------------------------------------------

    def tags(self, row: FileRow) -> frozenset[str]:
        """The words that users gave an object, which rules ask for: "key" and "key=value" of every object tag.

        Raises ArchiverError.
        """
        found = self.store.tags(row.path)
        return frozenset(found) | frozenset(f"{key}={value}" for key, value in found.items() if value)

    @contextmanager
    def peek(self, row: FileRow) -> Iterator[BinaryIO]:
        """An object open for reading its header: only what is read is fetched.

        Raises ObjectChanged when another version stands there, ObjectMissing, any ArchiverError.
        """
        from archiver.s3.ranged import open_ranged

        found = self.store.head(row.path)
        if (found.size, found.inode) != (row.size, row.inode):
            raise ObjectChanged(path=self.url(row.path))
        with open_ranged(self.store, row.path, found.etag, found.size) as reader:
            yield reader
