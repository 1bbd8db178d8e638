"""Bodies on their way to a reader, who must take each part in time and may go away at any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_LOG = logging.getLogger("archiver.s3.gateway")
SEND_SECONDS = 60.0  # in which a reader must take each part
_PART = 1 << 18  # bytes handed to the network at once


class Body(Response):
    """Bytes at hand."""

    def __init__(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(content, status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        content: Any = memoryview(self.body)
        async with _to_a_reader(self, send):
            for start in range(0, len(content), _PART):
                await _hand(send, bytes(content[start : start + _PART]))
            await send({"type": "http.response.body", "body": b""})


class Streamed(Response):
    """Bytes passed on as they arrive: `length` of them from `stream`, which is read in `pool` and closed."""

    def __init__(
        self, stream: BinaryIO | None, length: int, pool: Executor, status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self._stream = stream
        self._length = length
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stream is None:
            await super().__call__(scope, receive, send)
            return
        loop, left = asyncio.get_running_loop(), self._length
        gone = asyncio.create_task(_gone(receive))
        try:
            async with _to_a_reader(self, send):
                while left and not gone.done():
                    part = await loop.run_in_executor(self._pool, self._stream.read, min(_PART, left))
                    left -= len(part)
                    if not part:
                        raise EOFError(f"{left} bytes are missing")
                    await _hand(send, part)
                if not gone.done():
                    await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await loop.run_in_executor(self._pool, self._stream.close)


@asynccontextmanager
async def _to_a_reader(response: Response, send: Send) -> AsyncIterator[None]:
    """Begin an answer; one who does not take it is left alone."""
    start: Message = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    try:
        await send(start)
        yield
    except TimeoutError:
        _LOG.info("a reader did not take the answer")


async def _hand(send: Send, part: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
