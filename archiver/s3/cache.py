"""Generated images on disk, so that who reads one in parts, or reads it again, waits for it once.

One file an image: magic, SHA-256 of the image, its length, the image. Nothing is trusted without that hash, so that no
write need be durable: what a crash or a disk damaged is as if it were not there, and is generated again. Files appear
under their names whole, by renaming. Those unused for longest go when all of them are too large.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self
from uuid import uuid4

from archiver.errors import CacheTaken, from_os_error

_LOG = logging.getLogger("archiver.s3.cache")
_HEAD = struct.Struct(">4s32sQ")
_MAGIC = b"ARGC"
_NAME = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".new"


class Kept(NamedTuple):
    """An image: its bytes, and a file that stands at its beginning."""

    size: int
    file: BinaryIO


class ImageCache:
    """A folder of images under keys (64 hexadecimal digits), for any number of threads; one process at a time.

    Use as a context manager. Raises CacheTaken, and an ArchiverError where the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int, clock: Callable[[], int] = time.time_ns) -> None:
        self.folder = folder
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by key, longest unused first
        self._used = 0
        self._held: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = (self.folder / "lock").open("wb")
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_stock()
        except BlockingIOError:
            self._close()
            raise CacheTaken(path=self.folder) from None
        except OSError as error:
            self._close()
            raise from_os_error(error, self.folder) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return self._used

    def get(self, key: str) -> Kept | None:
        """The image of a key, its hash compared; None where there is none, or it is damaged. Close its file."""
        path = self._path(key)
        try:
            kept = _checked(path)
            if kept is not None:
                now = self._clock()
                os.utime(kept.file.fileno(), ns=(now, now))  # how a later start knows what was used last
        except FileNotFoundError:
            return None
        except OSError as error:
            _LOG.warning("%s cannot be read: %s", path, error.strerror)
            kept = None
        with self._lock:
            if kept is None:
                _LOG.warning("%s is damaged: it will be generated again", path)
                self._drop(key)
            elif key in self._sizes:
                self._sizes.move_to_end(key)
        return kept

    def put(self, key: str, image: bytes) -> bool:
        """Keep an image, and let those go that were unused for longest; False where it cannot be kept.

        That is no failure of anything: it can be generated again.
        """
        size = _HEAD.size + len(image)
        if size > self.limit:
            return False
        path = self._path(key)
        unfinished = path.with_name(f"{key}.{uuid4().hex}{_UNFINISHED}")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with unfinished.open("xb") as file:
                file.write(_HEAD.pack(_MAGIC, hashlib.sha256(image).digest(), len(image)))
                file.write(image)
            with self._lock:
                self._make_room(size - self._sizes.get(key, 0))
                unfinished.rename(path)
                self._used += size - self._sizes.pop(key, 0)
                self._sizes[key] = size
        except OSError as error:
            _LOG.warning("%s cannot be kept: %s", path, error.strerror)
            with suppress(OSError):  # it is removed at the next start
                unfinished.unlink(missing_ok=True)
            return False
        return True

    def _path(self, key: str) -> Path:
        if not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} is no key of an image")
        return self.folder / key[:2] / key

    def _make_room(self, more: int) -> None:
        while self._sizes and self._used + more > self.limit:
            self._drop(next(iter(self._sizes)))

    def _drop(self, key: str) -> None:
        self._used -= self._sizes.pop(key, 0)
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s cannot be removed: %s", self._path(key), error.strerror)

    def _take_stock(self) -> None:
        """What an earlier process left, in the order in which it was used; what it did not finish goes."""
        found: list[tuple[int, str, int]] = []
        for file in self.folder.glob("??/*"):
            if _NAME.fullmatch(file.name):
                stat = file.stat()
                found.append((stat.st_mtime_ns, file.name, stat.st_size))
            elif file.name.endswith(_UNFINISHED):
                file.unlink()
        for _, key, size in sorted(found):
            self._sizes[key] = size
            self._used += size
        self._make_room(0)

    def _close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _checked(path: Path) -> Kept | None:
    """The image in a file of the cache; None where it is not what was written there. Raises OSError."""
    with ExitStack() as opened:
        file = opened.enter_context(path.open("rb"))
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        magic, digest, length = _HEAD.unpack(head)
        if magic != _MAGIC or length != os.fstat(file.fileno()).st_size - _HEAD.size:
            return None
        if hashlib.file_digest(file, "sha256").digest() != digest:
            return None
        file.seek(_HEAD.size)
        opened.pop_all()
        return Kept(length, file)
