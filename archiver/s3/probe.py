"""What a bucket's server can do: tried out, for what servers say of themselves and what they do differ."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from archiver.config_tiers import AREA
from archiver.errors import ObjectChanged, ObjectRefused, PermissionRefused
from archiver.s3 import multipart
from archiver.s3.failures import asking, code_of
from archiver.s3.objects import Abilities

if TYPE_CHECKING:
    from archiver.s3.store import ObjectStore

_ANOTHER = "00000000000000000000000000000000"  # an ETag that the scratch object has not
_BUCKET_DEFAULTS = ("ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed", "404", "NoSuchKey")


def probe(store: ObjectStore) -> Abilities:
    """Try the server out with scratch objects in our area. Raises as the store does, and ObjectRefused."""
    scratch = f"{AREA}/probe-{uuid.uuid4()}"
    versioning, locks = _versioning(store), _locks_objects(store)
    versioned = versioning == "Enabled"
    try:
        etag = store.put(scratch, b"archiver").etag
        return Abilities(
            versioned=versioned,
            conditional_put=(
                _refuses(lambda: store.put(scratch, b"other", if_match=_ANOTHER))
                and _refuses(lambda: store.put(scratch, b"other", if_none_match=True))
                and not _refuses(lambda: store.put(scratch, b"archiver", if_match=etag))
            ),
            conditional_complete=_refuses(lambda: _complete(store, scratch)),
            conditional_copy=_refuses(lambda: store.copy(scratch, scratch, dressing=None, target_match=_ANOTHER)),
            conditional_delete=_refuses(lambda: store.delete(scratch, if_match=_ANOTHER)),
            object_lock=locks,
            suspended=versioning == "Suspended",
        )
    finally:
        _clear(store, scratch, versioned, locks)


def _refuses(attempt: Callable[[], object]) -> bool:
    """Whether the server obeyed a condition that does not hold; one that knows no such conditions is of no use."""
    try:
        attempt()
    except ObjectChanged:
        return True
    except ObjectRefused:
        return False
    else:
        return False


def _complete(store: ObjectStore, key: str) -> None:
    at = {"Bucket": store.settings.bucket, "Key": store.settings.prefix + key}
    with asking(store.settings.name, store.url(key)):
        multipart.upload(store.client, at, io.BytesIO(b"other"), {}, {"IfMatch": f'"{_ANOTHER}"'})


def _versioning(store: ObjectStore) -> str:
    with asking(store.settings.name, store.url()):
        return str(store.client.get_bucket_versioning(Bucket=store.settings.bucket).get("Status", ""))


def _locks_objects(store: ObjectStore) -> bool:
    with asking(store.settings.name, store.url()):
        try:
            found = store.client.get_object_lock_configuration(Bucket=store.settings.bucket)
        except ClientError as error:
            if code_of(error) in _BUCKET_DEFAULTS:
                return False
            raise
    return bool(found["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled")


def _clear(store: ObjectStore, key: str, versioned: bool, locks: bool) -> None:
    """Leave nothing behind; where the bucket locks what is written, its retention has to end first."""
    if not versioned:
        store.delete(key)
        return
    for version in store.versions(key):
        if locks:
            with suppress(PermissionRefused):
                store.delete(key, version=version.version_id)
        else:
            store.delete(key, version=version.version_id)
