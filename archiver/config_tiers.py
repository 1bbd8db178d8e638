"""Settings of a tier: a folder, or a bucket and prefix."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from archiver.config_fields import AbsolutePath, Name, Patterns, Section, Share, Size, none

# No path, no query, and no user: a password does not belong into a configuration.
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?/?")
_BUCKET = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$"
AREA = ".archiver"  # everything of ours in a tier; never scanned


def _endpoint(url: str) -> str:
    if url and not _ENDPOINT.fullmatch(url):
        raise ValueError('must be the address of an S3 server, as "https://s3.example:8333"; "" is AWS')
    return url.rstrip("/")


def _as_folder(prefix: str) -> str:
    """A prefix ends at a "/": "photos" must not take in "photos-of-others/"."""
    if prefix.startswith("/") or "//" in prefix or {".", "..", AREA} & set(prefix.split("/")):
        raise ValueError("must be the beginning of keys up to a slash, as 'photos/phones/'")
    return f"{prefix.rstrip('/')}/" if prefix else ""


def _object_url(url: str) -> str:
    if not re.fullmatch(r"s3://[^/]+/.+", url):
        raise ValueError('must be "s3://bucket/folder/" or the manifest.json in it')
    return url


OptionalRate = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(none)]


class _TierBase(Section):
    """What every kind of tier has. One sweep touches no more than `sweep_files` and `sweep_bytes`."""

    name: Name
    sweep_files: Annotated[int, Field(ge=1)] = 10_000
    sweep_bytes: Size = 100 * 10**9
    exclude: Patterns = ()


class LocalTierSettings(_TierBase):
    """A folder."""

    kind: Literal["local"] = "local"
    path: AbsolutePath
    high_watermark: Share = 0.0
    low_watermark: Share = 0.0

    @field_validator("kind", mode="before")
    @classmethod
    def _known_kind(cls, kind: object) -> object:
        # What is no "s3" comes here: the reader is told of both.
        if kind != "local":
            raise ValueError("should be 'local' or 's3'")
        return kind

    @field_validator("low_watermark")
    @classmethod
    def _below_high(cls, low: float, info: ValidationInfo) -> float:
        high = info.data.get("high_watermark", low)
        if low > high:
            raise ValueError(f"{low:g} must not be above high_watermark ({high:g})")
        return low

    @property
    def root(self) -> str:
        """Where it is, for people."""
        return str(self.path)


class S3TierSettings(_TierBase):
    """A bucket and prefix. Secrets come from the environment, a credentials file or boto3's own chain."""

    kind: Literal["s3"] = "s3"
    bucket: Annotated[str, Field(pattern=_BUCKET)]
    prefix: Annotated[str, AfterValidator(_as_folder)] = ""
    endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    region: str = ""
    profile: str = ""
    credentials_file: Annotated[AbsolutePath | None, BeforeValidator(none)] = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    records: Literal["in-place", "packed"] = "in-place"
    holding: Literal["auto", "copy", "version"] = "auto"
    storage_class: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "STANDARD"
    placeholder_class: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "STANDARD"
    sse: Literal["", "AES256", "aws:kms"] = ""
    sse_key: str = ""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    requests_per_second: OptionalRate = None
    bytes_per_second: Annotated[Annotated[Size, Field(ge=1)] | None, BeforeValidator(none)] = None
    inventory: Annotated[Annotated[str, AfterValidator(_object_url)] | None, BeforeValidator(none)] = None
    queue_url: Annotated[str | None, BeforeValidator(none)] = None
    prices: str = ""

    @model_validator(mode="after")
    def _key_of_kms(self) -> S3TierSettings:
        if self.sse_key and self.sse != "aws:kms":
            raise ValueError('sse_key goes with sse = "aws:kms"')
        return self

    @property
    def root(self) -> str:
        """Where it is, for people: "s3://bucket/prefix"."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


TierSettings = LocalTierSettings | S3TierSettings


def _kind_of(raw: Any) -> str:
    kind = raw.get("kind") if isinstance(raw, dict) else getattr(raw, "kind", None)
    return "s3" if kind == "s3" else "local"


AnyTier = Annotated[
    Annotated[LocalTierSettings, Tag("local")] | Annotated[S3TierSettings, Tag("s3")], Discriminator(_kind_of)
]
"""A [[tier]]; without a `kind` it is a folder."""
