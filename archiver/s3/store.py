"""One bucket and prefix: every request for an object goes through here, with its condition, budget and failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from archiver.config import S3TierSettings
from archiver.errors import ObjectChanged, ObjectMissing, ObjectRefused
from archiver.s3 import multipart
from archiver.s3.address import ObjectUrl
from archiver.s3.budget import Budget
from archiver.s3.client import connect
from archiver.s3.failures import asking, code_of, retries_of, status_of
from archiver.s3.objects import Abilities, Dressing, Encryption, Headers, Lock, ObjectInfo
from archiver.s3.stream import ObjectStream, as_header, buffered, md5_of, rereadable

__all__ = ["Abilities", "Dressing", "Encryption", "Headers", "Listed", "Lock", "ObjectInfo", "ObjectStore"]

MULTIPART_ABOVE = 64 << 20
LARGEST_COPY = 5 << 30  # what one CopyObject may copy
_NS = 1_000_000_000

Position = Mapping[str, str]  # behind which page a listing goes on, as boto3 names it


class Listed(NamedTuple):
    """An object as a listing tells it. A tuple, because there are millions of them."""

    key: str
    etag: str
    size: int
    modified_ns: int
    storage_class: str


class ObjectStore:
    """The objects of one tier. Keys are relative to its prefix. For any number of threads.

    Every method raises BucketUnreachable where the server cannot be asked, and of one object ObjectMissing,
    ObjectChanged (a condition did not hold), ObjectArchived, PermissionRefused or ObjectRefused.
    """

    def __init__(self, settings: S3TierSettings) -> None:
        self.settings = settings
        self._bytes = Budget(settings.bytes_per_second)
        self._requests = Budget(settings.requests_per_second)
        self._making = threading.Lock()

    # -- addresses -----------------------------------------------------------------------------------------------------

    def url(self, key: str = "") -> ObjectUrl:
        """The name of an object, for people."""
        return ObjectUrl(self.settings.bucket, self.settings.prefix + key)

    def _at(self, key: str, version: str | None = None) -> dict[str, str]:
        at = {"Bucket": self.settings.bucket, "Key": self.settings.prefix + key}
        return at | ({"VersionId": version} if version else {})

    def _asking(self, key: str = "") -> Any:
        return asking(self.settings.name, self.url(key))

    @cached_property
    def _made(self) -> Any:
        return connect(self.settings, self._requests)

    @property
    def client(self) -> Any:
        """boto3's client of this server; made when first used."""
        with self._making:
            return self._made

    # -- reading -------------------------------------------------------------------------------------------------------

    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        """What the server knows of an object, without its bytes and tags."""
        with self._asking(key):
            return info_of(key, self.client.head_object(**self._at(key, version)))

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        try:
            self.head(key)
        except ObjectMissing:
            return False
        return True

    def tags(self, key: str, version: str | None = None) -> dict[str, str]:
        """An object's tags."""
        with self._asking(key):
            answer = self.client.get_object_tagging(**self._at(key, version))
            return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}

    def get(
        self,
        key: str,
        *,
        if_match: str | None = None,
        range: tuple[int, int] | None = None,
        version: str | None = None,
    ) -> tuple[ObjectInfo, BinaryIO]:
        """An object and its bytes while they arrive; close them. `range` is first and last byte, both included.

        `size` of the info is that of the whole object. Bytes that stop coming are asked for again, of the same object.
        """
        wanted = self._at(key, version) | ({"IfMatch": _quoted(if_match)} if if_match else {})
        if range is not None:
            wanted["Range"] = f"bytes={range[0]}-{range[1]}"
        with self._asking(key):
            answer = self.client.get_object(**wanted)
            info = info_of(key, answer)
        first, last = range or (0, info.size - 1)

        def rest(arrived: int) -> Any:
            at = first + arrived
            wanted = self._at(key, version) | {"IfMatch": _quoted(info.etag), "Range": f"bytes={at}-{last}"}
            answer = self.client.get_object(**wanted)
            if not answer.get("ContentRange", "").startswith(f"bytes {at}-"):
                raise ValueError("it knows no ranges")
            return answer["Body"]

        return info, buffered(ObjectStream(answer["Body"], self.settings.name, self.url(key), self._bytes, rest))

    def read(self, key: str, *, limit: int, if_match: str | None = None, version: str | None = None) -> bytes:
        """A whole, small object. Raises ObjectRefused for one of more than `limit` bytes."""
        info, stream = self.get(key, if_match=if_match, version=version)
        with stream:
            if info.size > limit:
                raise ObjectRefused(path=self.url(key), reason=f"it has {info.size} bytes, more than {limit}")
            return stream.read()

    def read_head(self, key: str, size: int, *, if_match: str | None = None) -> bytes:
        """The first bytes of an object, `size` of them or all there are."""
        try:
            _, stream = self.get(key, if_match=if_match, range=(0, size - 1))
        except ObjectRefused:  # of an empty object no range can be had
            if self.head(key).size == 0:
                return b""
            raise
        with stream:
            return stream.read()

    # -- listing -------------------------------------------------------------------------------------------------------

    def pages(self, prefix: str = "", start_after: str = "") -> Iterator[list[Listed]]:
        """All objects whose keys begin with `prefix`, behind `start_after`, as the server pages them."""
        top = len(self.settings.prefix)
        wanted = {"Bucket": self.settings.bucket, "Prefix": self.settings.prefix + prefix}
        if start_after:
            wanted["StartAfter"] = self.settings.prefix + start_after
        position: Position = {}
        while True:
            with self._asking(prefix):
                answer = self.client.list_objects_v2(**wanted, **position)
                page = [
                    Listed(
                        entry["Key"][top:],
                        entry.get("ETag", "").strip('"'),
                        entry["Size"],
                        whole_seconds(entry["LastModified"]),
                        entry.get("StorageClass") or "STANDARD",
                    )
                    for entry in answer.get("Contents", ())
                ]
                following = _behind(answer, position, ContinuationToken="NextContinuationToken")
            yield page
            if following is None:
                return
            position = following

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[Listed]:
        """As `pages`, one by one."""
        for page in self.pages(prefix, start_after):
            yield from page

    def versions(self, key: str) -> Iterator[ObjectInfo]:
        """Every version and delete marker of one key, newest first; nothing where the bucket keeps none.

        Of headers and metadata nothing is told: `head(key, version)` does.
        """
        wanted: dict[str, str] = {"Bucket": self.settings.bucket, "Prefix": self.settings.prefix + key}
        whole = self.settings.prefix + key
        found: list[tuple[bool, datetime, ObjectInfo]] = []
        position: Position | None = {}
        # Keys are listed in order: behind another one this one does not come again.
        while position is not None and position.get("KeyMarker", "") <= whole:
            with self._asking(key):
                answer = self.client.list_object_versions(**wanted, **position)
                entries = [(entry, False) for entry in answer.get("Versions", ())]
                entries += [(entry, True) for entry in answer.get("DeleteMarkers", ())]
                for entry, marker in entries:
                    if entry["Key"] == whole:
                        info = _version_of(key, entry, marker)
                        found.append((info.is_latest, entry["LastModified"], info))
                position = _behind(answer, position, KeyMarker="NextKeyMarker", VersionIdMarker="NextVersionIdMarker")
        found.sort(key=lambda one: one[:2], reverse=True)
        return (info for _, _, info in found)

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | BinaryIO,
        *,
        dressing: Dressing | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> ObjectInfo:
        """Write an object whole; with `if_match` over that ETag alone, with `if_none_match` where there is none.

        Above 64 MiB in parts; the condition holds at their completion. Raises ObjectChanged, or ObjectMissing where
        nothing stands there any more.
        """
        dressing = dressing or Dressing()
        condition = _condition(if_match, if_none_match)
        arguments = self._arguments(dressing)
        with rereadable(body) as (file, size):
            self._bytes.take(size)
            in_parts = size > MULTIPART_ABOVE and (not condition or self.abilities.conditional_complete)
            if in_parts:
                with self._asking(key):
                    answer = multipart.upload(self.client, self._at(key), file, arguments, condition)
            else:
                answer = self._put_whole(key, file, size, arguments, condition)
        with self._asking(key):
            return _written(key, answer, size, dressing)

    def _put_whole(
        self, key: str, file: BinaryIO, size: int, arguments: Mapping[str, str], condition: Mapping[str, str]
    ) -> Mapping[str, Any]:
        digest = md5_of(file)
        content = {"ContentLength": size, "ContentMD5": as_header(digest)}
        with self._asking(key):
            try:
                answer: Mapping[str, Any] = self.client.put_object(
                    **self._at(key), **arguments, **condition, **content, Body=file
                )
            except ClientError as error:
                if not (condition and retries_of(error) and status_of(error) in (409, 412)):
                    raise
                # An earlier sending may have been obeyed, and only its answer lost: then the object is this one.
                found: Mapping[str, Any] = self.client.head_object(**self._at(key))
                if found["ETag"].strip('"') != digest.hex():
                    raise
                return found
        return answer

    def copy(
        self,
        source: str,
        target: str,
        *,
        if_match: str | None = None,
        dressing: Dressing | None = None,
        version: str | None = None,
        target_match: str | None = None,
        target_none_match: bool = False,
    ) -> ObjectInfo:
        """Copy an object (or a `version` of it) within the server, if its ETag is `if_match`.

        What the copy wears is `dressing`. The condition on the target is obeyed where `abilities.conditional_copy`.
        """
        dressing = dressing or Dressing()
        found = self.head(source, version)
        if if_match is not None and found.etag != if_match:
            raise ObjectChanged(path=self.url(source))
        condition = _condition(target_match, target_none_match)
        origin = self._at(source, version)
        arguments = self._arguments(dressing)
        with self._asking(source):
            if found.size > LARGEST_COPY:
                answer = multipart.copy(
                    self.client, origin, found.etag, found.size, self._at(target), arguments, condition
                )
                return _written(target, answer, found.size, dressing)
            answer = self.client.copy_object(
                **self._at(target),
                **arguments,
                **condition,
                CopySource=origin,
                CopySourceIfMatch=_quoted(found.etag),
                MetadataDirective="REPLACE",
                TaggingDirective="REPLACE",
            )
            return _written(target, {**answer, **answer["CopyObjectResult"]}, found.size, dressing)

    def delete(self, key: str, *, if_match: str | None = None, version: str | None = None) -> str:
        """Delete an object, one of its versions, or (in a versioned bucket) cover it with a delete marker.

        The marker's version id, "" where there is none. That the object was not there is no failure, unless `if_match`
        asks for it. Raises ObjectChanged.
        """
        condition = {"IfMatch": _quoted(if_match)} if if_match else {}
        with self._asking(key):
            try:
                answer = self.client.delete_object(**self._at(key, version), **condition)
            except ClientError as error:
                may_be_done = if_match is None or retries_of(error)
                if not may_be_done or status_of(error) not in (404, 409, 412) or code_of(error) == "NoSuchBucket":
                    raise
                # Not there, or deleted by an earlier sending whose answer was lost.
                if self.exists(key):
                    raise
                return next((one.version_id for one in self.versions(key) if one.is_latest and one.is_marker), "")
        return str(answer.get("VersionId", "")) if answer.get("DeleteMarker") else ""

    def _arguments(self, dressing: Dressing) -> dict[str, Any]:
        settings = self.settings
        encryption = Encryption(settings.sse, settings.sse_key) if settings.sse else dressing.encryption
        arguments: dict[str, Any] = {**dressing.headers.as_arguments(), **encryption.as_arguments()}
        arguments["Metadata"] = dict(dressing.metadata)
        if dressing.tags:
            arguments["Tagging"] = urlencode(dressing.tags)
        if dressing.storage_class:
            arguments["StorageClass"] = dressing.storage_class
        if dressing.legal_hold:
            arguments["ObjectLockLegalHoldStatus"] = "ON"
        return arguments

    # -- what the server can do ----------------------------------------------------------------------------------------

    @cached_property
    def abilities(self) -> Abilities:
        """What the bucket's server can do: tried out with scratch objects when first asked, then remembered."""
        from archiver.s3.probe import probe

        return probe(self)

    def close(self) -> None:
        """Let go of all connections."""
        with self._making:
            made = self.__dict__.pop("_made", None)
        if made is not None:
            made.close()


def _behind(answer: Mapping[str, Any], position: Position, **markers: str) -> Position | None:
    """Where a listing goes on, None behind its last page; `markers` are the answer's names of where that is.

    Raises KeyError, ValueError for what is no listing: every one tells whether it is the last page, so that the page of
    some other server, which has no objects either, is not read as an empty bucket.
    """
    if not answer["IsTruncated"]:
        return None
    following = {ours: answer.get(theirs) or "" for ours, theirs in markers.items()}
    if not any(following.values()) or following == position:
        raise ValueError("a listing that goes on without an end")
    return following


def info_of(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """An ObjectInfo from what HEAD or GET answered."""
    etag = answer["ETag"].strip('"')
    retain = answer.get("ObjectLockRetainUntilDate")
    content_range = answer.get("ContentRange")  # "bytes 0-99/1234" of a part
    return ObjectInfo(
        key=key,
        etag=etag,
        size=int(content_range.rpartition("/")[2]) if content_range else answer["ContentLength"],
        modified_ns=whole_seconds(answer["LastModified"]),
        storage_class=answer.get("StorageClass") or "STANDARD",
        headers=Headers(
            content_type=answer.get("ContentType", ""),
            content_encoding=answer.get("ContentEncoding", ""),
            content_disposition=answer.get("ContentDisposition", ""),
            content_language=answer.get("ContentLanguage", ""),
            cache_control=answer.get("CacheControl", ""),
            expires=answer.get("ExpiresString", ""),
            website_redirect_location=answer.get("WebsiteRedirectLocation", ""),
        ),
        metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        version_id=_version_id(answer),
        encryption=Encryption(answer.get("ServerSideEncryption", ""), answer.get("SSEKMSKeyId", "")),
        lock=Lock(retain, answer.get("ObjectLockMode", ""), answer.get("ObjectLockLegalHoldStatus") == "ON"),
        parts=_parts(etag),
        restored='ongoing-request="false"' in answer.get("Restore", ""),
    )


def _version_of(key: str, entry: Mapping[str, Any], marker: bool) -> ObjectInfo:
    etag = entry.get("ETag", "").strip('"')
    return ObjectInfo(
        key=key,
        etag=etag,
        size=entry.get("Size", 0),
        modified_ns=whole_seconds(entry["LastModified"]),
        storage_class=entry.get("StorageClass") or "STANDARD",
        version_id=entry.get("VersionId", ""),
        parts=_parts(etag),
        is_latest=bool(entry.get("IsLatest")),
        is_marker=marker,
    )


def _written(key: str, answer: Mapping[str, Any], size: int, dressing: Dressing) -> ObjectInfo:
    """What is known of an object that was just written, without asking for it again."""
    etag = answer["ETag"].strip('"')
    if "LastModified" in answer:
        modified = whole_seconds(answer["LastModified"])
    else:
        modified = whole_seconds(parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]))
    return ObjectInfo(
        key=key,
        etag=etag,
        size=size,
        modified_ns=modified,
        storage_class=dressing.storage_class or "STANDARD",
        headers=dressing.headers,
        metadata=dressing.metadata,
        version_id=_version_id(answer),
        encryption=Encryption(answer.get("ServerSideEncryption", ""), answer.get("SSEKMSKeyId", "")),
        parts=_parts(etag),
    )


def whole_seconds(at: datetime) -> int:
    """A time of the server in ns; listings know fractions that a HEAD does not, so that they are left off."""
    return int(at.timestamp()) * _NS


def _version_id(answer: Mapping[str, Any]) -> str:
    found = answer.get("VersionId", "")
    return "" if found == "null" else str(found)


def _parts(etag: str) -> int:
    _, dash, count = etag.rpartition("-")
    return int(count) if dash and count.isdigit() else 0


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _condition(if_match: str | None, if_none_match: bool) -> dict[str, str]:
    if if_none_match:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": _quoted(if_match)} if if_match else {}
