"""Bodies: of objects that are read, and of those that are written."""

from __future__ import annotations

import base64
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from archiver.errors import BucketUnreachable
from archiver.s3.address import ObjectUrl
from archiver.s3.budget import Budget
from archiver.s3.client import ATTEMPTS
from archiver.s3.failures import asking

_CHUNK = 1 << 20
_IN_MEMORY = 16 << 20  # of a body that cannot be read twice; what is beyond goes to a temporary file


class ObjectStream(io.RawIOBase):
    """The body of an object while it arrives; one that ends early is a failure, not an end.

    `rest` asks the server for the bytes behind those that have arrived, for a body that breaks off. Reading raises
    BucketUnreachable, and ObjectChanged where it is another object by then.
    """

    def __init__(self, body: Any, tier: str, url: ObjectUrl, budget: Budget, rest: Callable[[int], Any]) -> None:
        super().__init__()
        self._body, self._tier, self._url, self._budget = body, tier, url, budget
        self._rest, self._arrived, self._attempts = rest, 0, ATTEMPTS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        self._arrived += len(data)
        self._budget.take(len(data))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        while True:
            try:
                with asking(self._tier, self._url):
                    data: bytes = self._body.read(size)
                    return data
            except BucketUnreachable:
                self._attempts -= 1
                if not self._attempts:
                    raise
            self._body.close()
            with asking(self._tier, self._url):
                self._body = self._rest(self._arrived)

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


def buffered(stream: ObjectStream) -> BinaryIO:
    """With a buffer, so that small reads cost nothing."""
    return io.BufferedReader(stream, _CHUNK)


@contextmanager
def rereadable(body: bytes | BinaryIO) -> Iterator[tuple[BinaryIO, int]]:
    """A body at its beginning, that can be sent again after a failure, and its length in bytes."""
    if isinstance(body, bytes | bytearray | memoryview):
        yield io.BytesIO(body), len(body)
        return
    if body.seekable():
        start = body.tell()
        if start == 0:
            size = body.seek(0, io.SEEK_END)
            body.seek(0)
            yield body, size
            return
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        while chunk := body.read(_CHUNK):
            spool.write(chunk)
        size = spool.tell()
        spool.seek(0)
        yield cast(BinaryIO, spool), size


def md5_of(body: BinaryIO) -> bytes:
    """The MD5 of a body, which is put back to its beginning. The server compares it with what it got."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := body.read(_CHUNK):
        digest.update(chunk)
    body.seek(0)
    return digest.digest()


def as_header(digest: bytes) -> str:
    """A digest as Content-MD5 has it."""
    return base64.b64encode(digest).decode("ascii")
