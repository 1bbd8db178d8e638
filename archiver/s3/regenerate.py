"""Images for readers of released objects: each is generated once, however many ask for it, and kept in the cache.

The bucket is never written to: that is `archiver recall s3://...`.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from hashlib import sha256
from time import monotonic
from typing import TypeVar

from archiver import formats
from archiver.codec import lossless
from archiver.codec.record import Record, Scheme
from archiver.config_gateway import GatewaySettings
from archiver.decoder.engine import Engine, Priority
from archiver.errors import EnvelopeDamaged
from archiver.formats import Kind, Limits
from archiver.lifecycle.fill import image_of
from archiver.lifecycle.placeholder import Carried, require_within
from archiver.s3.answers import Refusal
from archiver.s3.cache import ImageCache, Kept

_LOG = logging.getLogger("archiver.s3.gateway")
RETRY = {"Retry-After": "2"}  # seconds
Result = TypeVar("Result")


class Images:
    """The images of released objects, by the key of the cache. Of one event loop; the work is done in `pool`."""

    def __init__(
        self, engine: Engine, cache: ImageCache, settings: GatewaySettings, limits: Limits, pool: Executor
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._cache = cache
        self._pool = pool
        self._seconds = settings.deadline.total_seconds()
        self._places = asyncio.Semaphore(settings.concurrent)
        self._most = settings.concurrent + settings.waiting
        self._under_way: dict[str, asyncio.Task[bytes]] = {}

    async def get(self, key: str, what: str, placeholder: Callable[[], bytes]) -> Kept:
        """The image of a placeholder, which is only read where the cache does not have it. `what` is for the log.

        Close its file. Raises Refusal (SlowDown) where too many wait already or the deadline passes, and what
        generating raises.
        """
        kept = await self._in_pool(self._cache.get, key)
        if kept is not None:
            return kept
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= self._most:
                raise Refusal("SlowDown", "too many images are being generated; try again", RETRY)
            task = asyncio.create_task(self._make(key, what, placeholder))
            self._under_way[key] = task
            task.add_done_callback(partial(self._over, key))
        try:
            async with asyncio.timeout(self._seconds):
                # Shielded: a reader who goes away takes the image from nobody else, and the next one finds it made.
                image = await asyncio.shield(task)
                return Kept(len(image), io.BytesIO(image))
        except TimeoutError:
            raise Refusal("SlowDown", "the image is not generated yet; try again", RETRY) from None

    async def _make(self, key: str, what: str, placeholder: Callable[[], bytes]) -> bytes:
        async with self._places:
            kept = await self._in_pool(self._cache.get, key)  # whoever was before may have made it meanwhile
            if kept is not None:
                with kept.file:
                    return await self._in_pool(kept.file.read)
            began = monotonic()
            data = await self._in_pool(placeholder)
            # The deadline is the reader's, not the image's: whoever asks again finds it made.
            image = await self._in_pool(generate, self._engine, data, self._limits, what)
            _LOG.info("generated %s, %d bytes in %.2f s", what, len(image), monotonic() - began)
            await self._in_pool(self._cache.put, key, image)
            return image

    def _over(self, key: str, task: asyncio.Task[bytes]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # its readers were told; asyncio complains where all of them had gone

    async def _in_pool(self, work: Callable[..., Result], *given: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)


def cache_key(*parts: str) -> str:
    """The name in the cache of what these say, each of any text."""
    digest = sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def generate(engine: Engine, placeholder: bytes, limits: Limits, what: str) -> bytes:
    """The image of a placeholder, of exactly the original's length; of a lossless one the original itself.

    Raises EnvelopeDamaged, PlaceholderDamaged, RecordCorrupt, ImageRefused and the errors of the models.
    """
    file = io.BytesIO(placeholder)
    envelope = formats.read_envelope(file)
    if envelope is None or envelope.kind is not Kind.PLACEHOLDER:
        raise EnvelopeDamaged(problem="it carries no record of a placeholder")
    require_within(limits, envelope, what)
    record = Record.from_bytes(envelope.record)
    if record.scheme is Scheme.LOSSLESS:
        original = lossless.restore(formats.read_payload(file), envelope.source.length)
        if sha256(original).digest() != envelope.source.sha256:
            raise EnvelopeDamaged(problem="what is kept behind it is not the original")
        return original
    carried = Carried(envelope, formats.read_metadata(file), record)
    (generated,) = engine.generate([record], priority=Priority.INTERACTIVE)
    return image_of(engine, carried, generated)
