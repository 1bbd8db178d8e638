"""Originals in their grace period: copies below `.archiver/holding/`, or the versions that the bucket keeps anyway."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import BinaryIO, cast
from urllib.parse import quote, unquote

from archiver.catalog.rows import held_name
from archiver.errors import HeldOriginalDamaged, NothingHeld, ObjectChanged, ObjectMissing, PermissionRefused
from archiver.s3.address import held_number
from archiver.s3.doubts import keys_under_way
from archiver.s3.marks import kind_of, unmarked
from archiver.s3.objects import Dressing, ObjectInfo
from archiver.s3.placing import discard
from archiver.s3.store import ObjectStore
from archiver.s3.tier import HOLDING

_PIECE = 1 << 20  # bytes
_IN_MEMORY = 32 << 20  # bytes of an original; what is larger goes through a temporary file
_UNLISTED = 24 * 3600  # seconds that a copy which no catalog lists is left, in case that an act is still at it


class HeldOriginals:
    """The originals held for one bucket. `sha256` is always that of the original."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def as_version(self, info: ObjectInfo) -> bool:
        """Whether an original is held as the version that it is, not as a copy.

        One without an id is older than the versions, and would be written over if they were suspended meanwhile.
        """
        wanted = self._store.settings.holding
        return bool(info.version_id) and (wanted == "version" or (wanted == "auto" and self._store.abilities.versioned))

    def reference(self, info: ObjectInfo) -> str:
        """How an original will be held: "copy", or its version id."""
        return info.version_id if self.as_version(info) else "copy"

    def hold(self, info: ObjectInfo, wears: Dressing, sha256: bytes) -> None:
        """Keep an original, durably and compared. `wears`: what its placeholder will wear.

        Raises ObjectChanged, HeldOriginalDamaged.
        """
        if self.as_version(info):
            return
        name = HOLDING + held_name(held_number(info.key, info.inode), sha256)
        copy = self._store.copy(info.key, name, if_match=info.etag, dressing=_as_copy(wears, info))
        if copy.size != info.size:
            raise HeldOriginalDamaged(path=self._store.url(info.key), held=self._store.url(name))
        if info.md5 is None or copy.md5 != info.md5:  # the ETags say nothing of the bytes
            with self.opened(self._store.head(name), info.key, sha256):
                pass

    def find(self, key: str, number: int, sha256: bytes) -> ObjectInfo:
        """The held original of an object, as copy or version, with all that it wears but its tags.

        Raises NothingHeld.
        """
        copy = self.copy(held_name(number, sha256))
        if copy is not None:
            return copy
        able = self._store.abilities
        for one in self._store.versions(key) if able.versioned or able.suspended else ():
            # What an earlier archiver released is known by the inode alone.
            if not one.is_marker and not one.is_latest and number in (held_number(key, one.inode), one.inode):
                found = self._store.head(key, one.version_id)
                if not kind_of(found):
                    return replace(found, version_id=one.version_id)
        raise NothingHeld(path=self._store.url(key))

    def copy(self, name: str) -> ObjectInfo | None:
        """The held copy of that name."""
        try:
            return self._store.head(HOLDING + name)
        except ObjectMissing:
            return None

    @contextmanager
    def opened(self, held: ObjectInfo, key: str, sha256: bytes) -> Iterator[BinaryIO]:
        """The bytes of a held original, all of them here and compared. Raises HeldOriginalDamaged."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            digest = hashlib.sha256()
            _, stream = self._store.get(held.key, version=_version(held))
            with stream:
                while piece := stream.read(_PIECE):
                    digest.update(piece)
                    file.write(piece)
            if digest.digest() != sha256:
                raise HeldOriginalDamaged(path=self._store.url(key), held=self._store.url(held.key))
            file.seek(0)
            yield cast(BinaryIO, file)

    def dressing(self, held: ObjectInfo) -> Dressing:
        """What the original wore."""
        return unmarked(held.dressing(self._store.tags(held.key, _version(held))))

    def delete(self, held: ObjectInfo) -> None:
        """Delete a held original for good. Raises PermissionRefused where its version is locked."""
        self._store.delete(held.key, version=_version(held))

    def put_back(self, held: ObjectInfo) -> None:
        """Delete a held original that stands in its place again; a version that somebody locked stays, as theirs."""
        with suppress(PermissionRefused):
            self.delete(held)

    def unlisted(self, listed: frozenset[str]) -> Iterator[ObjectInfo]:
        """Copies that no catalog lists, and that no act can be about to list any more: it would have been settled."""
        before = (time.time() - _UNLISTED) * 1e9
        for entry in self._store.list(HOLDING):
            name = entry.key.removeprefix(HOLDING)
            if name in listed or entry.modified_ns >= before:
                continue
            copy = self.copy(name)
            # The listing is old by now: an act may have written its copy over one that an earlier act left.
            if copy is not None and copy.modified_ns < before:
                yield copy

    def is_whole_elsewhere(self, copy: ObjectInfo) -> bool:
        """Whether the object that a copy was made of still stands at its key."""
        key = owner_of(copy)
        try:
            return bool(key) and self._store.head(key).etag == copy.metadata.get("archiver-etag")
        except (ObjectMissing, ObjectChanged):
            return False

    def drop(self, copy: ObjectInfo) -> bool:
        """Delete a copy that nobody needs; False where an act is about to need it, or has written it anew."""
        if owner_of(copy) in keys_under_way(self._store) or self.copy(copy.key.removeprefix(HOLDING)) != copy:
            return False
        discard(self._store, copy)
        return True


def _version(held: ObjectInfo) -> str | None:
    """Copies in a bucket with versions are deleted as the version they are, so that nothing of them stays."""
    return held.version_id or None


def owner_of(copy: ObjectInfo) -> str:
    """The key of the object that a held copy was made of; "" for a version, which has it itself."""
    return unquote(copy.metadata.get("archiver-key", ""))


def _as_copy(wears: Dressing, info: ObjectInfo) -> Dressing:
    """As the original, in its storage class, and with the key that it had."""
    metadata = {**wears.metadata, "archiver-kind": "held", "archiver-key": quote(info.key, safe="/")}
    return replace(wears, metadata=metadata, storage_class=info.storage_class)
