"""An object read once, into memory or a temporary file, so that it can be read again without being fetched again."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from archiver.catalog.rows import FileRow
from archiver.errors import BucketUnreachable, ObjectArchived, ObjectChanged
from archiver.s3.address import ObjectUrl
from archiver.s3.objects import UNREADABLE, ObjectInfo

if TYPE_CHECKING:
    from archiver.s3.ground import Ground

_IN_MEMORY = 32 << 20  # bytes
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FetchedOriginal:
    """The bytes of an object that is the version of its row."""

    path: ObjectUrl
    row: FileRow
    digest: bytes
    file: BinaryIO

    def reader(self) -> BinaryIO:
        """Its bytes from the first one; closing the reader leaves them here."""
        self.file.seek(0)
        return io.BufferedReader(_Unclosed(self.file), _PIECE)

    def sha256(self) -> bytes:
        """The hash of all its bytes."""
        return self.digest


@contextmanager
def reading(ground: Ground, row: FileRow) -> Iterator[FetchedOriginal]:
    """Fetch an original, and see to it that its bytes arrived as they are there: a record is made of them.

    Raises ObjectChanged, ObjectMissing, ObjectArchived, BucketUnreachable.
    """
    path = ground.tier.url(row.path)
    info, stream = ground.store.get(row.path)
    with stream, tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        if (info.size, info.inode) != (row.size, row.inode):
            raise ObjectChanged(path=path)
        if info.storage_class in UNREADABLE and not info.restored:
            raise ObjectArchived(path=path, storage_class=info.storage_class)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while piece := stream.read(_PIECE):
            sha256.update(piece)
            md5.update(piece)
            spool.write(piece)
        # What looks like an MD5 is none on every server: what arrives twice alike is what is there.
        if info.md5 not in (None, md5.hexdigest()) and _hash_again(ground, info) != sha256.digest():
            raise BucketUnreachable(tier=ground.tier.name, reason=f"{path}: its bytes were changed on their way here")
        yield FetchedOriginal(path, row, sha256.digest(), cast(BinaryIO, spool))


def _hash_again(ground: Ground, info: ObjectInfo) -> bytes:
    _, stream = ground.store.get(info.key, if_match=info.etag)
    with stream:
        return hashlib.file_digest(stream, "sha256").digest()  # type: ignore[arg-type]


class _Unclosed(io.RawIOBase):
    """Another file, that stays open."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
