"""The envelope's bytes: what makes a file ours, checksummed and self-delimiting.

    magic "ARCV", version u8, kind u8, storage u8, reserved u8, stamp u32, length u32 (of all of it)
    format u8, mode u8, orientation u8, reserved u8, length u64, sha256, width u32, height u32, mtime_ns i64, inode u64
    record: length u16, bytes
    metadata: length u32, crc32 u32, and the bytes themselves where they are stored inside
    crc32 u32 over everything before

Numbers are big-endian. Bytes behind the envelope are padding and never read.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from archiver.errors import EnvelopeDamaged, RecordVersionUnknown
from archiver.formats.facts import METADATA_LIMIT, Envelope, Format, Kind, Mode, SourceFacts

MAGIC = b"ARCV"
VERSION = 1
RECORD_LIMIT = 0xFFFF

_HEAD = struct.Struct(">4sBBBBII")
_FACTS = struct.Struct(">BBBBQ32sIIqQ")
_KINDS = (Kind.PLACEHOLDER, Kind.GENERATED)
_FORMATS = (Format.JPEG, Format.PNG, Format.WEBP, Format.TIFF)
_MODES: tuple[Mode, ...] = ("L", "RGB")

HEAD_BYTES = _HEAD.size
LIMIT = HEAD_BYTES + _FACTS.size + RECORD_LIMIT + METADATA_LIMIT + 64


class Storage(IntEnum):
    """Where the original's metadata is."""

    NATIVE = 0  # in the format's own containers, where every tool reads it
    INSIDE = 1  # packed, in the envelope
    BEHIND = 2  # packed, at the placeholder's second block


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope with what it says about metadata.

    `packed` is None where storage is BEHIND and only announced by size and crc.
    """

    envelope: Envelope
    storage: Storage = Storage.NATIVE
    packed: bytes | None = None
    packed_size: int = 0
    packed_crc: int = 0


def seal(envelope: Envelope, storage: Storage = Storage.NATIVE, packed: bytes = b"") -> bytes:
    """The envelope's bytes. `packed` is the compressed metadata, stored here only if `storage` says so."""
    facts = envelope.source
    if len(envelope.record) > RECORD_LIMIT:
        raise ValueError(f"a record of {len(envelope.record)} bytes, at most {RECORD_LIMIT} can be kept")
    body = _FACTS.pack(
        _FORMATS.index(facts.format),
        _MODES.index(facts.mode),
        facts.orientation,
        0,
        facts.length,
        facts.sha256,
        facts.width,
        facts.height,
        facts.mtime_ns,
        facts.inode,
    )
    body += struct.pack(">H", len(envelope.record)) + envelope.record
    body += struct.pack(">II", len(packed), zlib.crc32(packed))
    if storage is Storage.INSIDE:
        body += packed
    total = HEAD_BYTES + len(body) + 4
    head = _HEAD.pack(MAGIC, VERSION, _KINDS.index(envelope.kind), storage, 0, envelope.stamp, total)
    return head + body + struct.pack(">I", zlib.crc32(head + body))


def sealed_length(head: bytes) -> int | None:
    """How many bytes an envelope that starts with `head` has; None if it is none.

    Raises EnvelopeDamaged, RecordVersionUnknown.
    """
    if head[:4] != MAGIC:
        return None
    if len(head) < HEAD_BYTES:
        raise EnvelopeDamaged(problem="it is cut short")
    _, version, _, _, _, _, total = _HEAD.unpack_from(head)
    if version > VERSION:
        raise RecordVersionUnknown(version=version, known=VERSION)
    if not HEAD_BYTES + _FACTS.size + 14 <= total <= LIMIT:
        raise EnvelopeDamaged(problem=f"a length of {total} bytes is impossible")
    return int(total)


def unseal(data: bytes) -> Sealed:
    """Parse what `seal` wrote; padding behind it is ignored. Raises EnvelopeDamaged, RecordVersionUnknown."""
    total = sealed_length(data)
    if total is None:
        raise EnvelopeDamaged(problem="it does not start like one")
    if len(data) < total:
        raise EnvelopeDamaged(problem=f"{len(data)} of {total} bytes are left")
    (crc,) = struct.unpack_from(">I", data, total - 4)
    if zlib.crc32(data[: total - 4]) != crc:
        raise EnvelopeDamaged(problem="its checksum does not match")
    try:
        return _parse(data[: total - 4])
    except (struct.error, IndexError, ValueError) as error:
        raise EnvelopeDamaged(problem=f"its fields are inconsistent ({error})") from error


def _parse(data: bytes) -> Sealed:
    _, _, kind, storage, _, stamp, _ = _HEAD.unpack_from(data)
    fmt, mode, orientation, _, length, sha256, width, height, mtime_ns, inode = _FACTS.unpack_from(data, HEAD_BYTES)
    if not (1 <= orientation <= 8 and width and height):
        raise ValueError("orientation or size")
    at = HEAD_BYTES + _FACTS.size
    (record_size,) = struct.unpack_from(">H", data, at)
    record = data[at + 2 : at + 2 + record_size]
    at += 2 + record_size
    packed_size, packed_crc = struct.unpack_from(">II", data, at)
    packed = data[at + 8 :]
    where = Storage(storage)
    if where is not Storage.BEHIND and (len(packed) != packed_size or zlib.crc32(packed) != packed_crc):
        raise ValueError("metadata")
    if where is Storage.BEHIND and packed:
        raise ValueError("metadata")
    facts = SourceFacts(
        _FORMATS[fmt], length, sha256, width, height, orientation, _MODES[mode], mtime_ns, inode
    )  # fmt: skip
    envelope = Envelope(_KINDS[kind], record, facts, stamp)
    return Sealed(envelope, where, None if where is Storage.BEHIND else packed, packed_size, packed_crc)
