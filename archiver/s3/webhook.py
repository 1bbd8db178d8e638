"""`archiver s3 listen --http`: what stores without queues tell of themselves, over HTTP.

A sender is answered 204 once its events have been looked at and the catalog has been committed, so that it may forget
them. What a lifecycle rule found cold is archived afterwards: should this process die before, the next sweep of the
rules finds it in the catalog. Requests that come while the catalog is being written share the next round.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from archiver.errors import ArchiverError, CatalogUnavailable, EventUnreadable, TierNotScanned, TierUnreachable
from archiver.lifecycle.outcome import Listener as Hearer
from archiver.lifecycle.site import Site
from archiver.s3.address import ObjectUrl
from archiver.s3.effect import act, look
from archiver.s3.events import MOST_BYTES, ObjectEvent, parse
from archiver.s3.listen import Readiness
from archiver.s3.tier import S3Tier

_LOG = logging.getLogger("archiver.s3.webhook")
_BODY_SECONDS = 30.0  # in which a request must have arrived
_MOST_COLD = 100_000  # objects that wait to be archived; senders are told to come back
_TOGETHER = 100  # objects that are archived in one go
_RETRY = {"Retry-After": "5"}


class Receiver:
    """Takes events in, one round at a time, and archives what they say is cold in a thread of its own."""

    def __init__(self, site: Site, tiers: Sequence[S3Tier], hear: Hearer) -> None:
        self._site, self._tiers, self._hear = site, tiers, hear
        self._readiness = Readiness(site, tiers, hear)
        self._cold: queue.Queue[ObjectUrl | None] = queue.Queue(_MOST_COLD)
        self._stop = threading.Event()

    @property
    def is_full(self) -> bool:
        """Whether as much waits to be archived as may."""
        return self._cold.full()

    def look(self, events: Sequence[ObjectEvent]) -> None:
        """Bring the catalog up to date; committed when it returns. Raises TierUnreachable, TierNotScanned."""
        self._readiness.require()
        looked = look(self._site, self._tiers, events)
        for url in looked.cold:
            with contextlib.suppress(queue.Full):  # the sweep finds it
                self._cold.put_nowait(url)
        _LOG.info("%d events: %d keys looked at, %d cold", len(events), looked.keys, len(looked.cold))

    @contextmanager
    def archiving(self) -> Iterator[None]:
        """While the body runs, archive what is cold; at its end the batch in hand is finished."""
        worker = threading.Thread(target=self._archive, name="webhook-archive")
        worker.start()
        try:
            yield
        finally:
            self._stop.set()
            self._cold.put(None)
            worker.join()

    def _archive(self) -> None:
        while (urls := self._waiting()) and not self._stop.is_set():
            left, why = len(urls), ""
            try:
                left = len(act(self._site, urls, self._hear, self._stop).unfinished)
            except ArchiverError as error:
                why = error.message
            except Exception:
                # A defect, of which the trace goes to the log: what comes next may still be archived.
                _LOG.exception("archiving failed")
            if left:
                _LOG.warning("%d objects were not archived, the next sweep finds them: %s", left, why or "it failed")

    def _waiting(self) -> list[ObjectUrl]:
        """What is cold, as soon as something is; nothing at the end."""
        first = self._cold.get()
        urls = {} if first is None else {first: None}
        while first is not None and len(urls) < _TOGETHER:
            try:
                more = self._cold.get_nowait()
            except queue.Empty:
                break
            if more is None:
                break
            urls[more] = None
        return list(urls)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The events of one request, and the promise to answer it."""

    events: Sequence[ObjectEvent]
    answer: asyncio.Future[None]


class _Rounds:
    """Requests of many senders, taken to the catalog together."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._asked: asyncio.Queue[_Asked] = asyncio.Queue()

    async def take(self, events: Sequence[ObjectEvent]) -> None:
        """Returns when the catalog knows. Raises what looking raises."""
        asked = _Asked(events, asyncio.get_running_loop().create_future())
        self._asked.put_nowait(asked)
        await asked.answer

    async def run(self) -> None:
        """Round after round, until it is cancelled."""
        while True:
            together = [await self._asked.get()]
            while not self._asked.empty():
                together.append(self._asked.get_nowait())
            events = [event for asked in together for event in asked.events]
            error: BaseException | None = None
            try:
                await asyncio.to_thread(self._receiver.look, events)
            except Exception as raised:
                error = raised
            for asked in together:
                if asked.answer.done():  # its sender hung up
                    continue
                if error is None:
                    asked.answer.set_result(None)
                else:
                    asked.answer.set_exception(error)


def create_app(receiver: Receiver, token: str | None) -> Starlette:
    """The application. token: what senders must show, None asks for nothing."""
    rounds = _Rounds(receiver)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(rounds.run())
        with receiver.archiving():
            yield
            task.cancel()

    async def events(request: Request) -> Response:
        if token is not None and not _shows(request, token):
            return _said("no token, or a wrong one", 401, {"WWW-Authenticate": "Bearer"})
        if request.method == "HEAD":  # stores try whether somebody is there
            return Response(status_code=204)
        if receiver.is_full:
            return _said("too much waits to be archived", 503, _RETRY)
        try:
            await rounds.take(parse(await _body(request)))
        except EventUnreadable as error:
            _LOG.warning("%s", error.message)
            return _said(error.message, 400)
        except (TierUnreachable, TierNotScanned, CatalogUnavailable) as error:
            _LOG.warning("%s", error.message)
            return _said(error.message, 503, _RETRY)
        except TimeoutError:
            return _said("the request did not arrive in time", 408)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            _LOG.exception("a request failed")
            return _said("it failed here", 500)
        return Response(status_code=204)

    async def health(_request: Request) -> Response:
        return _said("ok", 200)

    return Starlette(
        routes=[Route("/", events, methods=["POST", "HEAD"]), Route("/health", health)],
        lifespan=lifespan,
    )


def _shows(request: Request, token: str) -> bool:
    """Bearer, as most stores send it, or Basic with the token for a password: Ceph knows only URLs with a user."""
    kind, _, shown = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            shown = base64.b64decode(shown, validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            shown = ""
    return hmac.compare_digest(shown.encode("latin-1", "replace"), token.encode())


async def _body(request: Request) -> bytes:
    """All of a request, bounded in size and time. Raises EventUnreadable, TimeoutError."""
    body = bytearray()
    async with asyncio.timeout(_BODY_SECONDS):
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                raise EventUnreadable(reason=f"it is larger than {MOST_BYTES} bytes")
    return bytes(body)


def _said(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(f"{text}\n", status, headers, "text/plain")
