"""What a placeholder keeps behind its head: the original's exact bytes, transcoded, for a lossless recall.

    magic "ARXL" | length u64 | sha256 of the data | data                    from a block border on

Readers of pictures stop at the end of the placeholder's own picture, so they never see it.
"""

from __future__ import annotations

import hashlib
import struct
from typing import BinaryIO

from archiver.errors import EnvelopeDamaged
from archiver.formats.containers import sealed_in
from archiver.formats.envelope import Sealed, Storage
from archiver.formats.facts import BLOCK
from archiver.formats.scan import file_length

MAGIC = b"ARXL"
_HEAD = struct.Struct(">4sQ32s")


def placed_behind(head: bytes, data: bytes) -> bytes:
    """A placeholder's head with data behind it."""
    border = -(-len(head) // BLOCK) * BLOCK
    return head.ljust(border, b"\0") + _HEAD.pack(MAGIC, len(data), hashlib.sha256(data).digest()) + data


def read_payload(file: BinaryIO) -> bytes:
    """The data behind a placeholder's head, checked; never more than the original had.

    Raises EnvelopeDamaged where it is no placeholder, or the data is gone or changed.
    """
    start, length, digest = _announced(file)
    length = min(length, file_length(file) - start)  # what is read is reserved first, whatever anybody announced
    file.seek(start)
    data = file.read(length)
    if hashlib.sha256(data).digest() != digest:
        raise EnvelopeDamaged(problem="the original's bytes behind it are changed")
    return data


def payload_end(file: BinaryIO) -> int:
    """Where the data behind a placeholder's head ends; what follows is a hole. Raises EnvelopeDamaged."""
    start, length, _ = _announced(file)
    return start + length


def metadata_end(file: BinaryIO) -> int:
    """Where the metadata end that a placeholder keeps behind its first block, or that block. Raises EnvelopeDamaged."""
    found = sealed_in(file)
    if found is None:
        raise EnvelopeDamaged(problem="it is no placeholder")
    return BLOCK + (found[1].packed_size if found[1].storage is Storage.BEHIND else 0)


def _announced(file: BinaryIO) -> tuple[int, int, bytes]:
    """Where the data starts, its length and its hash. Raises EnvelopeDamaged."""
    found = sealed_in(file)
    if found is None:
        raise EnvelopeDamaged(problem="it is no placeholder")
    border = _border(found[1])
    file.seek(border)
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, length, digest = _HEAD.unpack(head)
        if magic == MAGIC and length <= found[1].envelope.source.length:
            return border + _HEAD.size, length, digest
    raise EnvelopeDamaged(problem="the original's bytes behind it are gone")


def _border(sealed: Sealed) -> int:
    """The first block border behind the head: packed metadata may stand there first."""
    behind = sealed.packed_size if sealed.storage is Storage.BEHIND else 0
    return BLOCK + -(-behind // BLOCK) * BLOCK
