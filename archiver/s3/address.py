"""Naming objects: `s3://bucket/key`, and what of an ETag the catalog keeps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """An object, or all objects whose keys begin with `key`; the key is whole, with the prefix of its tier."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> ObjectUrl:
        """The inverse of str(). Raises ValueError for anything but `s3://bucket[/key]`."""
        bucket, _, key = text.removeprefix(SCHEME).partition("/")
        if not text.startswith(SCHEME) or not bucket:
            raise ValueError(f"{text!r} names no object: s3://bucket/key")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}" if self.key else f"{SCHEME}{self.bucket}"

    @property
    def name(self) -> str:
        """What follows the last slash, as the name of a file."""
        return self.key.rpartition("/")[2]

    def __truediv__(self, relative: str) -> ObjectUrl:
        """The object of that key below this one."""
        return ObjectUrl(self.bucket, f"{self.key.rstrip('/')}/{relative}" if self.key else relative)


def etag64(etag: str) -> int:
    """The first 64 bits, unsigned, of the SHA-256 of an ETag without its quotes: what a file's row has for an inode."""
    return int.from_bytes(hashlib.sha256(etag.strip('"').encode()).digest()[:8], "big")


def held_number(key: str, inode: int) -> int:
    """What a held original has for an inode: an object's own is that of all its copies in the bucket, too."""
    return int.from_bytes(hashlib.sha256(inode.to_bytes(8, "big") + key.encode()).digest()[:8], "big")
