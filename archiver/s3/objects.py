"""What the store hands out and takes in: plain values, no boto3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from archiver.s3.address import etag64

UNREADABLE = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects have to be restored before they can be read."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What a server says of an object's content to whoever fetches it; "" where it says nothing."""

    content_type: str = ""
    content_encoding: str = ""
    content_disposition: str = ""
    content_language: str = ""
    cache_control: str = ""
    expires: str = ""
    website_redirect_location: str = ""

    def as_arguments(self) -> dict[str, str]:
        """As boto3 names them."""
        given = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        named = {"".join(word.title() for word in name.split("_")): value for name, value in given if value}
        return named | ({"Expires": _as_date(self.expires)} if self.expires else {})


@dataclass(frozen=True, slots=True)
class Encryption:
    """Server-side encryption: "" (the bucket's own default), "AES256", or "aws:kms" and its key."""

    kind: str = ""
    key: str = ""

    def as_arguments(self) -> dict[str, str]:
        """As boto3 names them."""
        given = {"ServerSideEncryption": self.kind} if self.kind else {}
        return given | ({"SSEKMSKeyId": self.key} if self.key else {})


@dataclass(frozen=True, slots=True)
class Lock:
    """Object Lock: whether somebody wants an object left alone."""

    retain_until: datetime | None = None
    mode: str = ""  # "GOVERNANCE" or "COMPLIANCE"
    legal_hold: bool = False

    @property
    def reason(self) -> str:
        """Why the object must not be touched now; "" where it may be."""
        if self.legal_hold:
            return "legal hold"
        if self.retain_until is not None and self.retain_until > datetime.now(UTC):
            return f"{self.mode.lower() or 'retention'} until {self.retain_until:%Y-%m-%d %H:%M} UTC"
        return ""


@dataclass(frozen=True, slots=True)
class Dressing:
    """What an object wears beside its bytes, and is written with.

    User metadata has lower-case names; `storage_class` "" is the bucket's default.
    """

    headers: Headers = Headers()
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = ""
    encryption: Encryption = Encryption()
    legal_hold: bool = False


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a HEAD tells it; `key` is relative to the tier's prefix.

    `modified_ns` has whole seconds: a HEAD knows no more. `parts` is 0 for an object that was put in one go.
    """

    key: str
    etag: str  # without its quotes
    size: int
    modified_ns: int
    storage_class: str = "STANDARD"
    headers: Headers = Headers()
    metadata: Mapping[str, str] = field(default_factory=dict)
    version_id: str = ""  # "" where the bucket keeps no versions
    encryption: Encryption = Encryption()
    lock: Lock = Lock()
    parts: int = 0
    restored: bool = False  # a copy of an archived object can be read for a while
    is_latest: bool = True  # of versions(): whether it is what a plain GET finds
    is_marker: bool = False  # of versions(): a delete marker, no bytes

    @property
    def inode(self) -> int:
        """What the file's row has for an inode."""
        return etag64(self.etag)

    @property
    def readable(self) -> bool:
        """Whether its bytes can be fetched now."""
        return self.storage_class not in UNREADABLE or self.restored

    @property
    def md5(self) -> str | None:
        """The MD5 of its bytes in hex, where the ETag is one: put in one go, and not encrypted by KMS."""
        return self.etag if not self.parts and self.encryption.kind in ("", "AES256") and len(self.etag) == 32 else None

    def dressing(self, tags: Mapping[str, str] | None = None) -> Dressing:
        """What to put another object in its place with; the tags are asked for apart.

        A legal hold goes with it: whoever held the object would not know of the one that stands there then.
        """
        hold = self.lock.legal_hold
        return Dressing(self.headers, self.metadata, tags or {}, self.storage_class, self.encryption, hold)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a bucket's server can do, tried out."""

    versioned: bool
    conditional_put: bool  # If-Match and If-None-Match on PUT are obeyed
    conditional_complete: bool  # and on the completion of a multipart upload
    conditional_delete: bool
    conditional_copy: bool  # If-Match on the target of a copy
    object_lock: bool
    suspended: bool = False  # versions were kept once, and those are still there


def _as_date(expires: str) -> str:
    """As boto3 takes it; what is no date, as "0" or "-1", means long ago (RFC 9111, 5.3)."""
    try:
        return parsedate_to_datetime(expires).isoformat()
    except ValueError:
        return datetime.fromtimestamp(0, UTC).isoformat()
