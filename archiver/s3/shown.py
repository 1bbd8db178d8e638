"""What a reader is shown of an object, and what a request gets of it: the same before release, after it, and recalled.

A placeholder or a generated image tells in its user metadata what the original was. Conditions and ranges are those of
RFC 9110 (sections 13 and 14); several ranges in one request get the whole, as S3 does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime, parsedate_to_datetime

from archiver.s3.answers import Refusal
from archiver.s3.marks import OURS, kind_of, users
from archiver.s3.objects import Headers, ObjectInfo
from archiver.s3.signing import Asked

SYNTHETIC = "trainedAlgorithmicMedia"  # IPTC DigitalSourceType
_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shown:
    """An object as its readers know it. `is_generated`: what they get is, or will be, no original."""

    etag: str  # without its quotes
    size: int
    modified: datetime  # whole seconds
    headers: Headers
    metadata: Mapping[str, str]
    is_released: bool = False
    is_generated: bool = False

    @classmethod
    def plain(cls, info: ObjectInfo) -> Shown:
        """An object as it is."""
        modified = datetime.fromtimestamp(info.modified_ns // 10**9, UTC)
        return cls(info.etag, info.size, modified, info.headers, users(info.metadata))

    @classmethod
    def of(cls, info: ObjectInfo) -> Shown:
        """From what the server knows of an object. Raises ValueError where its own marks make no sense."""
        kind = kind_of(info)
        if kind not in ("placeholder", "generated"):
            return cls.plain(info)
        return cls(
            etag=info.metadata[f"{OURS}etag"].strip('"'),
            size=int(info.metadata[f"{OURS}length"]),
            modified=_moment(info.metadata[f"{OURS}modified"]),
            headers=info.headers,
            metadata=users(info.metadata),
            is_released=kind == "placeholder",
            is_generated=True,
        )

    def as_headers(self) -> dict[str, str]:
        """What a response says of the whole object."""
        answer = {
            "Accept-Ranges": "bytes",
            "Content-Type": self.headers.content_type or "binary/octet-stream",
            "ETag": f'"{self.etag}"',
            "Last-Modified": format_datetime(self.modified, usegmt=True),
        }
        more = {
            "Content-Encoding": self.headers.content_encoding,
            "Content-Disposition": self.headers.content_disposition,
            "Content-Language": self.headers.content_language,
            "Cache-Control": self.headers.cache_control,
            "Expires": self.headers.expires,
            "x-archiver-synthetic": SYNTHETIC if self.is_generated else "",
        }
        answer |= {name: value for name, value in more.items() if value}
        answer |= {f"x-amz-meta-{name}": value for name, value in self.metadata.items()}
        return {name: header_value(value) for name, value in answer.items()}


def header_value(text: str) -> str:
    """Text as a header can carry it: as RFC 2047 says where it is not Latin-1, as S3 does. No line breaks."""
    text = " ".join(text.splitlines())
    try:
        text.encode("latin-1")
        return text
    except UnicodeEncodeError:
        return Header(text, "utf-8", maxlinelen=10**6).encode()


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except OverflowError as error:  # within hours of the first or the last year there is
        raise ValueError(text) from error


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request gets: a status, and of the object bytes `first` to `last`, both included; None of an empty one."""

    status: int  # 200, 206 or 304
    first: int = 0
    last: int = -1

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.last - self.first + 1


def wanted(asked: Asked, shown: Shown) -> Wanted:
    """What a GET or HEAD gets. Raises Refusal: PreconditionFailed, InvalidRange."""
    _require(asked, shown)
    if _is_known(asked, shown):
        return Wanted(304)
    whole = Wanted(200, 0, shown.size - 1)
    text = asked.header("range")
    if text is None or not _still_applies(asked.header("if-range"), shown):
        return whole
    return _part(text, shown.size) or whole


def _require(asked: Asked, shown: Shown) -> None:
    """If-Match, else If-Unmodified-Since (RFC 9110, 13.2.2)."""
    matches, since = asked.header("if-match"), _date(asked.header("if-unmodified-since"))
    if matches is not None:
        if not _names(matches, shown.etag, weakly=False):
            raise Refusal("PreconditionFailed", "If-Match")
    elif since is not None and shown.modified > since:
        raise Refusal("PreconditionFailed", "If-Unmodified-Since")


def _is_known(asked: Asked, shown: Shown) -> bool:
    """If-None-Match, else If-Modified-Since: whether the reader has it already."""
    matches, since = asked.header("if-none-match"), _date(asked.header("if-modified-since"))
    if matches is not None:
        return _names(matches, shown.etag, weakly=True)
    return since is not None and shown.modified <= since


def _still_applies(condition: str | None, shown: Shown) -> bool:
    """If-Range: whether the parts that the reader has are of this object."""
    if condition is None:
        return True
    if condition.lstrip().startswith(('"', "W/")):
        return _names(condition, shown.etag, weakly=False)
    return _date(condition) == shown.modified


def _names(tags: str, etag: str, *, weakly: bool) -> bool:
    """Whether a list of entity tags has this one, or is "*"; clients of S3 leave out the quotes, too."""
    if tags.strip() == "*":
        return True
    for tag in tags.split(","):
        text = tag.strip()
        if text.startswith("W/"):
            if not weakly:
                continue
            text = text.removeprefix("W/")
        if text.strip('"') == etag:
            return True
    return False


def _date(text: str | None) -> datetime | None:
    """A date as HTTP writes it; what is none counts as not given."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, IndexError):
        return None


def _part(text: str, size: int) -> Wanted | None:
    """One range of bytes; None for what is none, or are several. Raises Refusal for one that lies outside."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < first:
            return None
    else:
        first, last = max(size - int(match[2]), 0), size - 1
    if first >= size or (not match[1] and int(match[2]) == 0):
        raise Refusal("InvalidRange", "the range lies behind the end", {"Content-Range": f"bytes */{size}"})
    return Wanted(206, first, last)
