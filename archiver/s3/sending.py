"""Bodies on their way to a reader, who must take each part in time and may go away at any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import BinaryIO

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from archiver.errors import ArchiverError

_LOG = logging.getLogger("archiver.s3.gateway")
SEND_SECONDS = 60.0  # in which a reader must take each part
_PART = 1 << 18  # bytes handed to the network at once


class Streamed(Response):
    """Bytes passed on as they arrive: `length` of them from `stream`, which is read in `pool` and closed.

    An answer that cannot be finished is cut off, so that its reader knows: the length was said before.
    """

    def __init__(self, stream: BinaryIO, length: int, pool: Executor, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._stream = stream
        self._length = length
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._pass_on(send, gone)
        except TimeoutError:
            _LOG.info("%s: a reader did not take the answer", scope["path"])
        except (ArchiverError, EOFError) as error:
            _LOG.warning("%s: cut off: %s", scope["path"], error)
        finally:
            gone.cancel()
            await asyncio.get_running_loop().run_in_executor(self._pool, self._stream.close)

    async def _pass_on(self, send: Send, gone: asyncio.Task[None]) -> None:
        """Raises TimeoutError (the reader), EOFError, ArchiverError (the bucket)."""
        loop, left = asyncio.get_running_loop(), self._length
        while left and not gone.done():
            part = await loop.run_in_executor(self._pool, self._stream.read, min(_PART, left))
            left -= len(part)
            if not part:
                raise EOFError(f"{left} bytes are missing")
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": part, "more_body": left > 0})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
