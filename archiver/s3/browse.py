"""ListObjectsV2 through the gateway: the bucket's own listing, with the sizes, tags and times of the originals.

A listing tells of a placeholder what it is now; so every object of a page is looked at (HEAD), some at a time. Objects
whose records are packed are not in the bucket, and not in its listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from archiver.config_tiers import AREA
from archiver.errors import ObjectMissing
from archiver.s3.answers import Node, Refusal, document
from archiver.s3.failures import asking
from archiver.s3.shown import Shown
from archiver.s3.signing import Asked
from archiver.s3.tier import S3Tier

_MOST = 1000  # keys of a page
_LOOKS = 16  # at a time
_PASSED_ON = {"prefix": "Prefix", "delimiter": "Delimiter", "continuation-token": "ContinuationToken"}

Look = Callable[[S3Tier, str], Awaitable[Shown]]
InPool = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """What a request asks for."""

    bucket: str
    given: Mapping[str, str]  # as boto3 names it
    keys: int
    url_encoded: bool

    @classmethod
    def of(cls, asked: Asked, bucket: str) -> Page:
        """Raises Refusal for what is not version 2, or makes no sense."""
        if asked.parameter("list-type") != "2":
            raise Refusal("NotImplemented", "buckets are listed by ListObjectsV2 alone")
        text = asked.parameter("max-keys") or str(_MOST)
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Refusal("InvalidArgument", "max-keys")
        given = {theirs: asked.parameter(name) or "" for name, theirs in _PASSED_ON.items()}
        given["StartAfter"] = asked.parameter("start-after") or ""
        encoded = asked.parameter("encoding-type") == "url"
        return cls(bucket, {name: value for name, value in given.items() if value}, min(int(text), _MOST), encoded)

    def shown(self, text: str) -> str:
        """A key as the answer spells it."""
        return quote(text, safe="/") if self.url_encoded else text


async def list_objects(page: Page, tiers: Sequence[S3Tier], in_pool: InPool, look: Look) -> bytes:
    """The XML of one page. `tiers` are those in the bucket; `look` tells what readers see of an object."""
    store = tiers[0].store

    def ask() -> Any:
        with asking(tiers[0].name, store.url()):
            return store.client.list_objects_v2(Bucket=page.bucket, MaxKeys=page.keys, **page.given)

    answer = await in_pool(ask)
    places = asyncio.Semaphore(_LOOKS)

    async def entry(key: str, storage_class: str) -> Node | None:
        found = located(tiers, key)
        if found is None:
            return None
        async with places:
            try:
                shown = await look(*found)
            except ObjectMissing:
                return None  # it went meanwhile
        return ("Contents", list(_contents(page, key, shown, storage_class)))

    listed = answer.get("Contents", ())
    entries = await asyncio.gather(*(entry(one["Key"], one.get("StorageClass", "STANDARD")) for one in listed))
    folders = [one["Prefix"] for one in answer.get("CommonPrefixes", ())]
    nodes = [node for node in entries if node is not None]
    nodes += [("CommonPrefixes", [("Prefix", page.shown(one))]) for one in folders if _leads_to(tiers, one)]
    return document("ListBucketResult", iter([*_head(page, answer, len(nodes)), *nodes]))


def located(tiers: Sequence[S3Tier], key: str) -> tuple[S3Tier, str] | None:
    """The tier that a whole key lies in, and the key within it; None for what is in none, or the archiver's own."""
    for tier in tiers:
        relative = key.removeprefix(tier.settings.prefix)
        if key.startswith(tier.settings.prefix) and relative and _is_a_readers(relative):
            return tier, relative
    return None


def _is_a_readers(relative: str) -> bool:
    """Nothing of ours; and no server should be asked for what it could take for a way up and into that.

    SeaweedFS takes a backslash for a slash, and several slashes for one.
    """
    parts = [part for part in relative.replace("\\", "/").split("/") if part]
    return parts[:1] != [AREA] and not {".", ".."} & set(parts)


def _leads_to(tiers: Sequence[S3Tier], folder: str) -> bool:
    """Whether a common prefix has, or is on the way to, something of a tier."""
    above = any(tier.settings.prefix.startswith(folder) for tier in tiers)
    return above or located(tiers, folder) is not None


def _head(page: Page, answer: Mapping[str, Any], count: int) -> Iterator[Node]:
    yield "Name", page.bucket
    yield "Prefix", page.shown(page.given.get("Prefix", ""))
    for name in ("Delimiter", "StartAfter"):
        if name in page.given:
            yield name, page.shown(page.given[name])
    if "ContinuationToken" in page.given:
        yield "ContinuationToken", page.given["ContinuationToken"]
    if page.url_encoded:
        yield "EncodingType", "url"
    yield "MaxKeys", str(page.keys)
    yield "KeyCount", str(count)
    yield "IsTruncated", "true" if answer.get("IsTruncated") else "false"
    if answer.get("IsTruncated"):
        yield "NextContinuationToken", answer["NextContinuationToken"]


def _contents(page: Page, key: str, shown: Shown, storage_class: str) -> Iterator[Node]:
    yield "Key", page.shown(key)
    yield "LastModified", f"{shown.modified:%Y-%m-%dT%H:%M:%S}.000Z"
    yield "ETag", f'"{shown.etag}"'
    yield "Size", str(shown.size)
    yield "StorageClass", storage_class
