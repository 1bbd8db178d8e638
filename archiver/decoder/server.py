"""`archiver decoder serve`: the decode service of this machine for other hosts, over HTTP (layout: wire.py).

Nothing that comes in is trusted: bodies are bounded and must arrive in time, records are parsed by the codec's own
bounded parser, and only who knows the token is heard. What is under way is bounded too: records beyond that are refused
with 503, and a client that hangs up takes what has not begun out of the queue.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from archiver import __version__
from archiver.codec.record import Steering
from archiver.decoder import wire
from archiver.decoder.engine import Generated, Priority
from archiver.decoder.queued import QueuedEngine
from archiver.errors import (
    ArchiverError,
    DeadlineMissed,
    DecoderBusy,
    DecoderFailed,
    DecoderRefused,
    DecodeTooCostly,
    ProfileUnknown,
    RecordCorrupt,
    RecordVersionUnknown,
    SchemeUnsupported,
)
from archiver.models.profiles import PROFILE_FILE
from archiver.models.vault import Vault

_LOG = logging.getLogger("archiver.decoder.server")
BODY_SECONDS = 30.0  # in which a request must have arrived
SEND_SECONDS = 60.0  # in which a client must take each part of an answer
# The most that one record may ask for, in runs of the denoiser: twice what the dearest record of the built-in presets
# does (360, the paper's G-COCLICO), and less than half of what the format can say. It is the same for all profiles.
MOST_RUNS = 720
# What else takes time, in the same unit (CPU time of the embedded profile at 512x512): a correction of the pixels'
# colours decodes once and encodes twice, and a step towards the embedding runs decoder and encoder both ways.
_RUNS_A_CORRECTION = 4
_RUNS_AN_EMBEDDING_STEP = 7
_PART = 1 << 16  # bytes of an answer handed to the network at once
_RETRY_AFTER = "1"  # seconds
_HERE = "there"  # what a decoder calls itself towards its callers, who put their own name for it in the place
_STATUS: dict[type[ArchiverError], int] = {
    RecordCorrupt: 400,
    RecordVersionUnknown: 400,
    ProfileUnknown: 404,
    SchemeUnsupported: 422,
    DecoderRefused: 400,
    DecodeTooCostly: 400,
    DecoderBusy: 503,
    DeadlineMissed: 504,
}

Handler = Callable[[Request], Awaitable[Response]]


def create_app(engine: QueuedEngine, vault: Vault, token: str | None, *, most: int, seconds: float) -> Starlette:
    """The application. token: what callers must show, None asks for nothing. most: records of each priority
    under way at a time. seconds: the longest that a request may take. Closes the engine when it ends.
    """
    desk = _Desk(engine, vault, most, seconds)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        # Answers under way have had their time before it comes to this: nobody waits for what still runs.
        await asyncio.to_thread(engine.service.close, 0)

    return Starlette(
        routes=[
            Route(wire.DECODE, _guarded(desk.decode, token), methods=["POST"]),
            Route(wire.PROFILES, _guarded(desk.profiles, token)),
            Route(wire.STATS, _guarded(desk.stats, token)),
            Route(wire.HEALTH, _guarded(desk.health, None)),
        ],
        lifespan=lifespan,
    )


def _guarded(handler: Handler, token: str | None) -> Handler:
    """Only for who knows the token, and with named failures as JSON."""
    wanted = None if token is None else f"Bearer {token}".encode()

    async def guarded(request: Request) -> Response:
        shown = request.headers.get("Authorization", "").encode("latin-1", "replace")
        if wanted is not None and not hmac.compare_digest(shown, wanted):
            return _failure(DecoderRefused(where=_HERE, reason="no token, or a wrong one"), 401)
        try:
            return await handler(request)
        except ArchiverError as error:
            return _failure(error)
        except asyncio.CancelledError:  # the server stops, and has waited as long as it may
            return _failure(DecoderFailed(where=_HERE, reason="it was stopped"), 503)
        except Exception as error:
            _LOG.exception("a request failed")
            return _failure(DecoderFailed(where=_HERE, reason=type(error).__name__))

    return guarded


def _failure(error: ArchiverError, status: int | None = None) -> Response:
    status = status or _STATUS.get(type(error), 500)
    headers = {"Retry-After": _RETRY_AFTER} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(wire.pack_error(error), status, headers, "application/json")


def _json(value: object) -> Response:
    return Response(json.dumps(value), media_type="application/json")


class _Desk:
    """What the requests do."""

    def __init__(self, engine: QueuedEngine, vault: Vault, most: int, seconds: float) -> None:
        self._engine = engine
        self._vault = vault
        self._most = most
        self._seconds = seconds
        # Records, from the request's end until the answer is out. Bulk work, however much, takes no reader's place.
        self._under_way = dict.fromkeys(Priority, 0)

    async def health(self, _request: Request) -> Response:
        """Alive, and which version; for who watches over it."""
        return _json({"status": "ok", "version": __version__})

    async def stats(self, _request: Request) -> Response:
        """What the service is doing and has done."""
        stats = await asyncio.to_thread(self._engine.stats)
        return _json({**dataclasses.asdict(stats), "version": __version__})

    async def profiles(self, _request: Request) -> Response:
        """The profiles as their `profile.toml` describes them."""

        def read() -> list[str]:
            folders = (self._vault.directory(info.fingerprint) for info in self._vault.list())
            return [(folder / PROFILE_FILE).read_text(encoding="utf-8") for folder in folders]

        return _json({"profiles": await asyncio.to_thread(read)})

    async def decode(self, request: Request) -> Response:
        """Records in, pictures out."""
        priority, seconds = _wishes(request, self._seconds)
        deadline = monotonic() + seconds
        body = await _body(request)
        if isinstance(body, Response):
            return body
        records = wire.unpack_records(body)
        runs = max(_runs(record.steering) for record in records)
        if runs > MOST_RUNS:
            raise DecodeTooCostly(where=_HERE, runs=runs, most=MOST_RUNS)
        under_way = self._under_way[priority]
        if under_way and under_way + len(records) > self._most:
            raise DecoderBusy(where=_HERE, waiting=under_way)
        self._under_way[priority] += len(records)
        try:
            futures = await asyncio.to_thread(self._engine.submit, records, priority, deadline)
            pictures = await _pictures(futures, deadline, request)
            answer = await asyncio.to_thread(lambda: b"".join(map(wire.pack_picture, pictures)))
        except BaseException:
            self._done(priority, len(records))
            raise
        return _Answer(answer, lambda: self._done(priority, len(records)))

    def _done(self, priority: Priority, records: int) -> None:
        self._under_way[priority] -= records


def _runs(steering: Steering) -> int:
    """What a record's picture takes, in runs of the denoiser."""
    # `trajectory` leaves what is before the start out, and one step at least.
    steps = max(1, math.ceil(steering.steps * (1.0 if steering.start is None else steering.start)))
    attention = 0 if steering.attention is None else max(1, round(steering.attention.until * steps))
    corrections = 0 if steering.linear is None else min(steps, steering.linear.pixel_steps)
    towards = 0 if steering.embedding is None else steering.embedding.steps
    return steps + attention + corrections * _RUNS_A_CORRECTION + towards * _RUNS_AN_EMBEDDING_STEP


def _wishes(request: Request, most: float) -> tuple[Priority, float]:
    """Priority and seconds that a request asks for. Raises DecoderRefused for ones that make no sense."""
    name = request.headers.get(wire.PRIORITY, "bulk")
    try:
        seconds = float(request.headers.get(wire.DEADLINE, most))
        if not math.isfinite(seconds):
            raise ValueError(seconds)
        return Priority[name.upper()], min(most, seconds)
    except (KeyError, ValueError):
        raise DecoderRefused(where=_HERE, reason="a priority or a deadline that is none") from None


async def _body(request: Request) -> bytes | Response:
    """The request's body, or the refusal of one that is too long or does not arrive."""
    declared = request.headers.get("Content-Length", "0")
    too_long = DecoderRefused(where=_HERE, reason=f"more than {wire.MOST_REQUEST} bytes")
    if not declared.isdigit() or int(declared) > wire.MOST_REQUEST:
        return _failure(too_long, 413)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > wire.MOST_REQUEST:
                    return _failure(too_long, 413)
    except TimeoutError:
        return _failure(DecoderRefused(where=_HERE, reason="the request did not arrive in time"), 408)
    return bytes(body)


async def _pictures(futures: Sequence[Future[Generated]], deadline: float, request: Request) -> list[Generated]:
    """All pictures, by the deadline; what has not begun is dropped when the caller hangs up.

    Raises DeadlineMissed, and what the engine raises.
    """
    all_of_them = asyncio.gather(*map(asyncio.wrap_future, futures))
    # What becomes of it after a deadline or a hang-up is of no interest; asyncio complains of what nobody looked at.
    all_of_them.add_done_callback(lambda done: done.cancelled() or done.exception())
    gone = asyncio.create_task(_gone(request))
    try:
        either: set[asyncio.Future[Any]] = {all_of_them, gone}
        await asyncio.wait(either, timeout=deadline - monotonic(), return_when="FIRST_COMPLETED")
        if all_of_them.done():
            return list(all_of_them.result())
        if gone.done():
            raise DecoderRefused(where=_HERE, reason="the caller hung up")
        raise DeadlineMissed(where=_HERE, seconds="the asked")
    finally:
        gone.cancel()
        all_of_them.cancel()
        for future in futures:
            future.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Answer(Response):
    """Pictures, sent in parts that the client must take in time; `done` is called whatever becomes of it."""

    media_type = wire.PICTURES_TYPE

    def __init__(self, content: bytes, done: Callable[[], None]) -> None:
        super().__init__(content)
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            content: Any = memoryview(self.body)
            for start in range(0, len(content), _PART):
                part, more = bytes(content[start : start + _PART]), start + _PART < len(content)
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": more})
        except TimeoutError:
            _LOG.warning("a client did not take its answer")
        finally:
            self._done()
