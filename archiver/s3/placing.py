"""Writing, replacing and deleting an object only while it is the one that was looked at.

A server that obeys If-Match does it in one step. One that does not, but keeps versions, loses nothing: what was written
over lies below, and if it is not what was expected, ours is taken away again. Any other server is refused.
"""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

from archiver.errors import ConditionIgnored, ObjectChanged, ObjectRefused, PermissionRefused
from archiver.s3.marks import kind_of
from archiver.s3.objects import Dressing, ObjectInfo
from archiver.s3.store import ObjectStore


def require_conditions(store: ObjectStore) -> None:
    """Raises ConditionIgnored for a bucket whose objects cannot be replaced safely."""
    if not store.abilities.conditional_put and not store.abilities.versioned:
        raise ConditionIgnored(tier=store.settings.name)


def replace(store: ObjectStore, standing: ObjectInfo, body: bytes | BinaryIO, dressing: Dressing) -> ObjectInfo:
    """Write `body` over an object, if that is still `standing`. Raises ObjectChanged, ObjectMissing, ConditionIgnored.

    A placeholder or generated image that was written over is not kept as an old version.
    """
    key = standing.key
    if store.abilities.conditional_put:
        written = store.put(key, body, dressing=dressing, if_match=standing.etag)
    else:
        require_conditions(store)
        written = store.put(key, body, dressing=dressing)
        _require_below(store, key, written.version_id, standing.etag)
    if kind_of(standing):
        forget_version(store, standing)
    return written


def place(store: ObjectStore, key: str, body: bytes | BinaryIO, dressing: Dressing) -> ObjectInfo:
    """Write `body` where nothing stands. Raises ObjectChanged where something does, ConditionIgnored."""
    if store.abilities.conditional_put:
        return store.put(key, body, dressing=dressing, if_none_match=True)
    require_conditions(store)
    written = store.put(key, body, dressing=dressing)
    _require_below(store, key, written.version_id, None)
    return written


def remove(store: ObjectStore, standing: ObjectInfo) -> None:
    """Delete an object, if it is still `standing`; a bucket with versions keeps the original below a delete marker.

    Raises ObjectChanged, ConditionIgnored.
    """
    if store.abilities.conditional_delete:
        store.delete(standing.key, if_match=standing.etag)
    elif store.abilities.versioned:
        marker = store.delete(standing.key)
        _require_below(store, standing.key, marker, standing.etag)
    else:
        raise ConditionIgnored(tier=store.settings.name)
    if kind_of(standing):
        forget_version(store, standing)


def forget_version(store: ObjectStore, ours: ObjectInfo) -> None:
    """Delete the old version that something of ours became when it was written over; where there are none, nothing."""
    if ours.version_id:
        discard(store, ours)


def discard(store: ObjectStore, ours: ObjectInfo) -> None:
    """Delete an object of ours that is needed no more, with its version where the bucket keeps those."""
    # It costs a little space, no more: a bucket whose versions are locked, or not ours to delete, keeps it.
    with suppress(PermissionRefused, ObjectRefused):
        if ours.version_id or not store.abilities.versioned:
            store.delete(ours.key, version=ours.version_id or None)


def _require_below(store: ObjectStore, key: str, version: str, expected: str | None) -> None:
    """Take away the version (or marker) just written, unless what it covers has the `expected` ETag, None: nothing.

    Raises ObjectChanged.
    """
    below = [one for one in store.versions(key) if one.version_id != version]
    # Listings tell whole seconds, and markers apart from versions: of one second, either may have been there last.
    newest = [one for one in below if one.modified_ns == below[0].modified_ns]
    if expected is None:
        as_expected = not below or any(one.is_marker for one in newest)
    else:
        as_expected = bool(below) and not any(one.is_marker for one in newest) and below[0].etag == expected
    if not as_expected:
        store.delete(key, version=version)
        raise ObjectChanged(path=store.url(key))
