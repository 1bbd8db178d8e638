"""`archiver s3 gateway`: buckets as their readers knew them, over HTTP. GET and HEAD of objects, and what lists them.

    admit -> locate the tier -> HEAD of the object -> conditions and range
        -> resident or recalled: its bytes, passed on as they arrive
        -> released: the image, generated once, kept in the cache

An object keeps its ETag, its length, its time and its headers through all of it. Nothing is ever written to a bucket.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import BinaryIO, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from archiver.catalog import Catalog
from archiver.config_gateway import GatewaySettings
from archiver.decoder.engine import Engine
from archiver.errors import (
    ArchiverError,
    DeadlineMissed,
    DecoderBusy,
    ObjectArchived,
    ObjectChanged,
    ObjectMissing,
    PermissionRefused,
    TierUnreachable,
)
from archiver.formats import Limits
from archiver.s3.accesses import Accesses
from archiver.s3.answers import XML, Refusal, document
from archiver.s3.browse import Page, list_objects, located
from archiver.s3.cache import ImageCache
from archiver.s3.finding import Finder, Found
from archiver.s3.regenerate import RETRY, Images, cache_key
from archiver.s3.sending import Streamed
from archiver.s3.shown import Shown, Wanted, header_value, wanted
from archiver.s3.signing import Asked, Guard
from archiver.s3.tier import S3Tier

_LOG = logging.getLogger("archiver.s3.gateway")
_THREADS = 64  # that wait for buckets, disk and decoder
_LONGEST_KEY = 1024  # bytes, as S3 has it
# Parts of an object that are not its bytes, and versions that are not the newest: nobody was promised those.
_NOT_HERE = frozenset({"acl", "attributes", "legal-hold", "partNumber", "policy", "retention", "restore", "tagging"})
_NOT_HERE |= {"torrent", "uploadId", "uploads", "versionId"}
_OVERRIDES = {
    f"response-{name.lower()}": name
    for name in (
        "Cache-Control",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Type",
        "Expires",
    )
}
Result = TypeVar("Result")


def create_app(
    tiers: Sequence[S3Tier],
    engine: Engine,
    cache: ImageCache,
    catalog: Catalog | None,
    guard: Guard,
    settings: GatewaySettings,
    limits: Limits,
) -> Starlette:
    """The application. catalog: where accesses are noted, and packed records are found; None does without both.
    limits: beyond them no placeholder is believed.

    Closes engine and tiers when it ends.
    """
    gateway = Gateway(tiers, engine, cache, catalog, guard, settings, limits)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    return Starlette(routes=[Route("/{path:path}", gateway)], lifespan=lifespan)


class Gateway:
    """The ASGI application below the lifespan."""

    def __init__(
        self,
        tiers: Sequence[S3Tier],
        engine: Engine,
        cache: ImageCache,
        catalog: Catalog | None,
        guard: Guard,
        settings: GatewaySettings,
        limits: Limits,
    ) -> None:
        # Of two tiers in one bucket, the one with the longer prefix is asked first; neither lies in the other.
        self._tiers = sorted(tiers, key=lambda tier: len(tier.settings.prefix), reverse=True)
        self._engine = engine
        self._guard = guard
        self._pool = ThreadPoolExecutor(_THREADS, "gateway")
        self._images = Images(engine, cache, settings, limits, self._pool)
        self._finder = Finder(catalog)
        self._accesses = Accesses(catalog)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What runs beside the requests, from the first to the last of them."""
        async with self._accesses.noted(self._pool):
            yield
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._engine.close()
        self._pool.shutdown()
        for tier in self._tiers:
            tier.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, request_id = asked_in(scope), uuid4().hex[:16].upper()
        try:
            response = await self._answer(asked)
        except Refusal as refusal:
            response = _refused(asked, refusal, request_id)
        except ArchiverError as error:
            level = logging.INFO if isinstance(error, ObjectMissing) else logging.WARNING
            _LOG.log(level, "%s %s: %s", asked.method, asked.path, error.message)
            response = _refused(asked, _refusal_of(error), request_id)
        except Exception:
            _LOG.exception("%s %s", asked.method, asked.path)
            response = _refused(asked, Refusal("InternalError", "the log of the gateway says more"), request_id)
        response.headers["x-amz-request-id"] = request_id
        await response(scope, receive, send)

    async def _answer(self, asked: Asked) -> Response:
        if asked.method not in ("GET", "HEAD"):
            raise Refusal("MethodNotAllowed", "this is a gateway for readers", {"Allow": "GET, HEAD"})
        self._guard.admit(asked)
        bucket, _, key = decoded(asked.path).lstrip("/").partition("/")
        if not bucket:
            raise Refusal("NotImplemented", "it lists no buckets, only what is in one that is named")
        if not any(tier.settings.bucket == bucket for tier in self._tiers):
            raise Refusal("NoSuchBucket", "no tier is in this bucket")
        if not key:
            return await self._bucket(asked, bucket)
        if _NOT_HERE & {name for name, _ in asked.parameters}:
            raise Refusal("NotImplemented", "only whole objects, or ranges of them, as they are now")
        tier, relative = self._locate(bucket, key)
        try:
            return await self._object(asked, tier, relative)
        except ObjectChanged:  # between the look at it and its bytes: released, recalled, or written by its owner
            return await self._object(asked, tier, relative)

    def _locate(self, bucket: str, key: str) -> tuple[S3Tier, str]:
        """The tier that a key lies in, and the key within it; what is the archiver's own is nobody's."""
        found = located([tier for tier in self._tiers if tier.settings.bucket == bucket], key)
        if found is None:
            raise Refusal("NoSuchKey", "no tier has this key")
        return found

    # -- buckets -------------------------------------------------------------------------------------------------------

    async def _bucket(self, asked: Asked, bucket: str) -> Response:
        if asked.method == "HEAD":
            return Response(headers={"Content-Length": "0"})
        if asked.parameter("location") is not None:
            return Response(document("LocationConstraint", iter(())), media_type=XML)
        tiers = [tier for tier in self._tiers if tier.settings.bucket == bucket]
        listing = await list_objects(Page.of(asked, bucket), tiers, self._in_pool, self._look)
        return Response(listing, media_type=XML)

    async def _look(self, tier: S3Tier, key: str) -> Shown:
        info = await self._in_pool(tier.store.head, key)
        try:
            return Shown.of(info)
        except (KeyError, ValueError):
            return Shown.plain(info)  # one damaged object does not spoil the list of all

    # -- objects -------------------------------------------------------------------------------------------------------

    async def _object(self, asked: Asked, tier: S3Tier, key: str) -> Response:
        found = await self._in_pool(_find, self._finder, tier, key)
        part = wanted(asked, found.shown)
        headers = found.shown.as_headers() | (_overrides(asked) if part.status != 304 else {})
        if part.status == 304:
            return Response(status_code=304, headers=headers)
        headers["Content-Length"] = str(part.length)
        if part.status == 206:
            headers["Content-Range"] = f"bytes {part.first}-{part.last}/{found.shown.size}"
        if asked.method == "HEAD":
            return Response(status_code=part.status, headers=headers)
        self._accesses.note(tier.name, key)
        if not part.length:
            return Response(headers=headers)
        if found.placeholder is not None:
            stream = await self._image(str(tier.url(key)), found, found.placeholder)
            await self._in_pool(stream.seek, part.first, os.SEEK_CUR)
        else:
            stream = await self._stream(tier, key, found, part)
        return Streamed(stream, part.length, self._pool, part.status, headers)

    async def _image(self, name: str, found: Found, placeholder: Callable[[], bytes]) -> BinaryIO:
        size, file = await self._images.get(cache_key(name, found.tag), name, placeholder)
        if size != found.shown.size:
            file.close()
            raise Refusal("InternalError", "the image has not the length that the object says")
        return file

    async def _stream(self, tier: S3Tier, key: str, found: Found, part: Wanted) -> BinaryIO:
        """The bytes as they arrive from the bucket."""
        span = (part.first, part.last) if part.status == 206 else None
        _, stream = await self._in_pool(partial(tier.store.get, key, if_match=found.tag, range=span))
        return stream

    async def _in_pool(self, work: Callable[..., Result], *given: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)


# -- requests ----------------------------------------------------------------------------------------------------------


def asked_in(scope: Scope) -> Asked:
    """The request of an ASGI scope."""
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    return Asked(scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1"), headers)


def decoded(path: str) -> str:
    """The path of a request as text. Raises Refusal for what can be no key."""
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal("InvalidURI", "the key is not UTF-8") from None
    if len(text.encode()) > _LONGEST_KEY + 64:  # the bucket's name is not the key's
        raise Refusal("KeyTooLongError", "a key has at most 1024 bytes")
    if "\0" in text:
        raise Refusal("InvalidURI", "a key has no zero bytes")
    return text


def _find(finder: Finder, tier: S3Tier, key: str) -> Found:
    try:
        return finder.find(tier, key)
    except (KeyError, ValueError) as error:
        _LOG.warning("%s: its own metadata makes no sense: %r", tier.url(key), error)
        raise Refusal("InternalError", "the object's own metadata makes no sense") from None


def _overrides(asked: Asked) -> dict[str, str]:
    """Headers that a request wants to be different: response-content-type and the like."""
    given = ((_OVERRIDES.get(name.lower()), value) for name, value in asked.parameters)
    return {name: header_value(value) for name, value in given if name}


# -- refusals ----------------------------------------------------------------------------------------------------------

_CODES: Mapping[type[ArchiverError], str] = {
    ObjectMissing: "NoSuchKey",
    ObjectChanged: "SlowDown",
    ObjectArchived: "InvalidObjectState",
    PermissionRefused: "AccessDenied",
    TierUnreachable: "ServiceUnavailable",
    DecoderBusy: "SlowDown",
    DeadlineMissed: "SlowDown",
}


def _refusal_of(error: ArchiverError) -> Refusal:
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "InternalError")
    # What the error says may name hosts and paths that are no reader's affair.
    message = {"InternalError": "the image cannot be generated; the log of the gateway says more"}.get(code, code)
    return Refusal(code, message, RETRY if code in ("SlowDown", "ServiceUnavailable") else None)


def _refused(asked: Asked, refusal: Refusal, request_id: str) -> Response:
    body = b"" if asked.method == "HEAD" else refusal.body(asked.path, request_id)
    return Response(body, refusal.status, refusal.headers, XML)
