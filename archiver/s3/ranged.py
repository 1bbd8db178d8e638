"""An object as a file that can be sought in: only the ranges that are read are fetched."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from archiver.s3.store import ObjectStore

_RANGE = 64 << 10


class RangedObject(io.RawIOBase):
    """One version of an object, read-only. Reading raises ObjectChanged when another stands there, and as the store."""

    def __init__(self, store: ObjectStore, key: str, etag: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._etag, self._size = store, key, etag, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        _, stream = self._store.get(self._key, if_match=self._etag, range=(self._at, end - 1))
        with stream:
            data = stream.read()
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_ranged(store: ObjectStore, key: str, etag: str, size: int) -> BinaryIO:
    """An object as a buffered file; what is fetched at a time is 64 KiB at least."""
    return io.BufferedReader(RangedObject(store, key, etag, size), _RANGE)
