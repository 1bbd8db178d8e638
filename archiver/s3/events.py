"""What object stores say happened, as `ObjectEvent`s: pure, bounded, and trusting nothing that it is given.

An event only says that a key is worth looking at. What is done depends on the object as it is then, so that a lost,
late, doubled or forged event changes nothing but when somebody looks.

Understood are S3 event notifications (also those of MinIO, RustFS and Ceph), the same wrapped by SNS, EventBridge
events, and what the filer of SeaweedFS sends to a webhook. What each store sends: docs/s3.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import unquote_plus

from archiver.errors import EventUnreadable

MOST_BYTES = 1 << 20  # of one message: what SQS and EventBridge carry at most
MOST_EVENTS = 1000  # in one message; S3 sends one
_MOST_KEY = 1024  # bytes of UTF-8, as everywhere
_MOST_TEXT = 1024  # characters of anything else
_MOST_SIZE = 1 << 53  # bytes of one object; far beyond any store's limit


class EventKind(StrEnum):
    """What happened to a key."""

    CREATED = "created"  # written, copied or restored: something stands there
    REMOVED = "removed"  # deleted, or hidden by a delete marker
    TRANSITIONED = "transitioned"  # a lifecycle rule moved it to a colder storage class


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """One event of one object. Empty texts and None where the store did not say.

    key: as it is in the bucket. sequencer: orders the writes and deletions of one key, see `is_older`.
    """

    kind: EventKind
    bucket: str
    key: str
    etag: str = ""
    size: int | None = None
    version: str = ""
    sequencer: str = ""
    at: datetime | None = None

    def is_older(self, other: ObjectEvent) -> bool:
        """Whether it is certain that `other`, of the same key, happened later."""
        if not self.sequencer or not other.sequencer:
            return False
        # Hexadecimal numbers of any length, to be compared as if the shorter one had zeros before it.
        width = max(len(self.sequencer), len(other.sequencer))
        return self.sequencer.lower().rjust(width, "0") < other.sequencer.lower().rjust(width, "0")


# What the name of an event begins with, without "s3:". Of MinIO: ObjectTransition; of Ceph: ObjectLifecycle.
_NAMES = (
    ("ObjectCreated:", EventKind.CREATED),
    ("ObjectRemoved:", EventKind.REMOVED),
    ("LifecycleExpiration:", EventKind.REMOVED),
    ("LifecycleTransition", EventKind.TRANSITIONED),
    ("ObjectTransition:Complete", EventKind.TRANSITIONED),
    ("ObjectLifecycle:Transition:Current", EventKind.TRANSITIONED),
    ("ObjectLifecycle:Expiration:", EventKind.REMOVED),
)
_DETAILS = {
    "Object Created": EventKind.CREATED,
    "Object Deleted": EventKind.REMOVED,
    "Object Storage Class Changed": EventKind.TRANSITIONED,
}


def parse(body: str | bytes) -> tuple[ObjectEvent, ...]:
    """The events of one message, in its order; none for what concerns no object's content, as S3's own test message.

    Raises EventUnreadable for everything that is no event of an object store.
    """
    return tuple(_events(_document(body), wrapped=False))


def _document(body: str | bytes) -> Mapping[str, object]:
    if len(body) > MOST_BYTES:
        raise EventUnreadable(reason=f"it is larger than {MOST_BYTES} bytes")
    try:
        document = json.loads(body)
    except (
        ValueError,
        RecursionError,
    ) as error:
        # Not UTF-8, no JSON, a number of a million digits, or nested too deep.
        raise EventUnreadable(reason=f"it is no JSON ({type(error).__name__})") from None
    return _object(document, "message")


def _events(document: Mapping[str, object], *, wrapped: bool) -> Iterator[ObjectEvent]:
    if "Records" in document:
        records = _list(document["Records"], "Records")
        if len(records) > MOST_EVENTS:
            raise EventUnreadable(reason=f"it has more than {MOST_EVENTS} records")
        for record in records:
            yield from _of_record(_object(record, "record"))
    elif document.get("Type") == "Notification" and not wrapped:
        yield from _events(_document(_text(document, "Message", most=MOST_BYTES)), wrapped=True)
    elif "detail-type" in document:
        yield from _of_eventbridge(document)
    elif "event_type" in document and "message" in document:
        yield from _of_seaweedfs(document)
    elif document.get("Event") != "s3:TestEvent":
        raise EventUnreadable(reason="it is no event of an object store")


# -- S3, MinIO, Ceph ---------------------------------------------------------------------------------------------------


def _of_record(record: Mapping[str, object]) -> Iterator[ObjectEvent]:
    if "s3" not in record:
        raise EventUnreadable(reason="a record in it is not one of S3")
    name = _text(record, "eventName").removeprefix("s3:")
    kind = next((kind for prefix, kind in _NAMES if name.startswith(prefix)), None)
    if kind is None:
        return  # tags, access lists, replication: nothing that changes a picture
    s3 = _object(record["s3"], "s3")
    entry = _object(s3.get("object"), "object")
    key = _text(entry, "key", most=3 * _MOST_KEY)
    # Every store encodes the key as a form would, but for Ceph.
    is_plain = _text(record, "eventSource", default="").startswith("ceph:")
    yield ObjectEvent(
        kind=kind,
        bucket=_bucket(_object(s3.get("bucket"), "bucket")),
        key=_key(key if is_plain else _decoded(key)),
        etag=_etag(entry, "eTag"),
        size=_size(entry.get("size")),
        version=_version(entry, "versionId"),
        sequencer=_sequencer(entry),
        at=_time(record.get("eventTime")),
    )


def _of_eventbridge(document: Mapping[str, object]) -> Iterator[ObjectEvent]:
    if document.get("source") != "aws.s3":
        raise EventUnreadable(reason="it is an event of another service")
    kind = _DETAILS.get(_text(document, "detail-type"))
    if kind is None:
        return
    detail = _object(document.get("detail"), "detail")
    entry = _object(detail.get("object"), "object")
    yield ObjectEvent(
        kind=kind,
        bucket=_bucket(_object(detail.get("bucket"), "bucket")),
        key=_key(_text(entry, "key")),
        etag=_etag(entry, "etag"),
        size=_size(entry.get("size")),
        version=_version(entry, "version-id"),
        sequencer=_sequencer(entry),
        at=_time(document.get("time")),
    )


# -- SeaweedFS ---------------------------------------------------------------------------------------------------------

_BUCKETS = "/buckets/"
_VERSIONS = ".versions"  # a folder beside where the object would be, with one file a version
_LATEST = "Seaweed-X-Amz-Latest-Version-Id"


def _of_seaweedfs(document: Mapping[str, object]) -> Iterator[ObjectEvent]:
    """The filer tells of its files and folders by their paths, objects or not; a rename is two events."""
    message = _object(document["message"], "message")
    old, new = (_object(message.get(name) or {}, name) for name in ("old_entry", "new_entry"))
    path = _text(document, "key", most=4 * _MOST_KEY)
    path_now = path
    if new and "new_parent_path" in message:
        path_now = f"{_text(message, 'new_parent_path', most=4 * _MOST_KEY)}/{_text(new, 'name')}"
    if old and (not new or path_now != path):
        yield from _of_entry(EventKind.REMOVED, path, old)
    if new:
        yield from _of_entry(EventKind.CREATED, path_now, new)


def _of_entry(kind: EventKind, path: str, entry: Mapping[str, object]) -> Iterator[ObjectEvent]:
    bucket, _, key = path.removeprefix(_BUCKETS).partition("/")
    if not path.startswith(_BUCKETS) or bucket.startswith(".") or not key:
        return
    attributes = _object(entry.get("attributes") or {}, "attributes")
    extended = _object(entry.get("extended") or {}, "extended")
    at = _epoch(attributes)
    if entry.get("is_directory"):
        # Which version is the current one is told by the folder, after the version itself has been written.
        if key.endswith(_VERSIONS) and _LATEST in extended:
            yield ObjectEvent(
                kind, bucket, _key(key.removesuffix(_VERSIONS)), version=_base64(extended[_LATEST]), at=at
            )
        return
    folder, _, name = key.rpartition("/")
    if key.startswith(".uploads/") or (folder.endswith(_VERSIONS) and name.startswith("v_")):
        return  # parts of an upload that is not complete, and a version
    yield ObjectEvent(
        kind=kind,
        bucket=bucket,
        key=_key(key),
        etag=_base64(extended.get("Seaweed-X-Amz-ETag")),
        size=_size(attributes.get("file_size", 0)),
        at=at,
    )


def _base64(value: object) -> str:
    if value is None:
        return ""
    try:
        return base64.b64decode(str(value), validate=True).decode("ascii")[:_MOST_TEXT].strip('"')
    except (binascii.Error, ValueError):
        raise EventUnreadable(reason="its ETag is not base64") from None


def _epoch(attributes: Mapping[str, object]) -> datetime | None:
    match attributes.get("mtime"):
        case int(seconds) if 0 <= seconds < 253402300800:  # the year 10000
            return datetime.fromtimestamp(seconds, UTC)
        case _:
            return None


# -- values ------------------------------------------------------------------------------------------------------------


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise EventUnreadable(reason=f"its {what} is no object")
    return value


def _list(value: object, what: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise EventUnreadable(reason=f"its {what} is no list")
    return value


def _text(of: Mapping[str, object], name: str, *, most: int = _MOST_TEXT, default: str | None = None) -> str:
    value = of.get(name, default)
    if not isinstance(value, str) or len(value) > most:
        raise EventUnreadable(reason=f"its {name} is no text of at most {most} characters")
    return value


def _bucket(bucket: Mapping[str, object]) -> str:
    name = _text(bucket, "name")
    if not name or "/" in name:
        raise EventUnreadable(reason="it names no bucket")
    return name


def _decoded(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise EventUnreadable(reason="its key is not UTF-8") from None


def _key(key: str) -> str:
    try:
        length = len(key.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and a bucket cannot
        raise EventUnreadable(reason="its key is not UTF-8") from None
    if not 0 < length <= _MOST_KEY:
        raise EventUnreadable(reason=f"its key has {length} bytes")
    return key


def _etag(entry: Mapping[str, object], name: str) -> str:
    return _text(entry, name, default="").strip('"')


def _version(entry: Mapping[str, object], name: str) -> str:
    version = entry.get(name)
    return "" if version in (None, "null") else _text(entry, name)  # "null": written before there were versions


def _sequencer(entry: Mapping[str, object]) -> str:
    sequencer = _text(entry, "sequencer", default="")
    # It only saves work: one that is no number orders nothing.
    return sequencer if all(digit in "0123456789abcdefABCDEF" for digit in sequencer) else ""


def _size(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)  # Ceph has sent it as text
    if value is None or value == "":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_SIZE:
        raise EventUnreadable(reason="its size is no number of bytes")
    return value


def _time(value: object) -> datetime | None:
    """Only told to people: what cannot be read is not worth losing an event for."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
