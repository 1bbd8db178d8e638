"""What is fuzzed: every parser of bytes that come from outside, and what must hold whatever they are.

A target takes any bytes and raises nothing, unless the parser broke a promise: another exception than its own, or a
value that is not written back as it was read. Where a checksum guards the bytes, a target also mends it, for else no
fuzzer would get past it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from archiver.access import fanotify
from archiver.codec import schemes
from archiver.codec.explain import explain
from archiver.codec.record import Record
from archiver.errors import EnvelopeDamaged, ImageRefused, RecordCorrupt, RecordVersionUnknown
from archiver.formats import Format, SourceFacts, read_envelope
from archiver.formats.envelope import HEAD_BYTES, seal, sealed_length, unseal
from archiver.formats.facts import Envelope, Kind
from archiver.formats.reading import read_metadata

GOLDEN = Path(__file__).parent.parent / "codec" / "golden"


def record(data: bytes) -> None:
    """The frame of a record."""
    for candidate in (data, _mended(data)):
        with suppress(RecordCorrupt, RecordVersionUnknown):
            assert Record.from_bytes(candidate).to_bytes() == candidate


def sections(data: bytes) -> None:
    """What is in a record's sections; entropy decoding makes this some hundred times slower."""
    with suppress(RecordCorrupt, RecordVersionUnknown):
        found = Record.from_bytes(_mended(data))
        schemes.check(found)
        explain(found)


def _mended(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "big")


def envelope(data: bytes) -> None:
    """The bytes of an envelope, with their length and checksum mended."""
    mended = bytearray(data)
    if len(mended) > HEAD_BYTES + 4:
        struct.pack_into(">I", mended, HEAD_BYTES - 4, len(mended))
        struct.pack_into(">I", mended, len(mended) - 4, zlib.crc32(mended[:-4]))
    for candidate in (data, bytes(mended)):
        with suppress(EnvelopeDamaged, RecordVersionUnknown):
            sealed_length(candidate)
            found = unseal(candidate)
            again = seal(found.envelope, found.storage, found.packed or b"")
            if found.packed is not None:
                assert unseal(again).envelope == found.envelope


def container(data: bytes) -> None:
    """A file of any format that may carry an envelope."""
    with suppress(EnvelopeDamaged, RecordVersionUnknown, ImageRefused):
        read_envelope(BytesIO(data))
        read_metadata(BytesIO(data))


def events(data: bytes) -> None:
    """What the kernel's fanotify group gives to read."""
    with suppress(fanotify.EventsMalformed):
        for event in fanotify.parse(data):
            assert event.how in fanotify.How or event.overflow


TARGETS: dict[str, Callable[[bytes], None]] = {
    "record": record,
    "sections": sections,
    "envelope": envelope,
    "container": container,
    "events": events,
}


def seeds(target: str) -> list[bytes]:
    """Whole inputs for a fuzzer to begin with."""
    records = [path.read_bytes() for path in sorted(GOLDEN.glob("*.rec"))]
    facts = SourceFacts(Format.JPEG, 100_000, bytes(32), 640, 480, 6, "RGB", 1_300_000_000_987_654_321, 4711)
    sealed = [seal(Envelope(kind, records[0], facts)) for kind in Kind]
    match target:
        case "record" | "sections":
            return records
        case "envelope":
            return sealed
        case "container":
            app11 = b"\xff\xeb" + struct.pack(">H", 2 + 9 + len(sealed[0])) + b"archiver\0" + sealed[0]
            return [b"\xff\xd8" + app11 + b"\xff\xd9", b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"\x89PNG\r\n\x1a\n"]
        case _:
            plain = struct.pack("=IBBHQii", 24, 3, 0, 24, 0x10000, 5, 4711)
            with_pidfd = struct.pack("=IBBHQii", 32, 3, 0, 24, 0x100000, 6, 4712) + struct.pack("=BBHi", 4, 0, 8, 7)
            return [plain, with_pidfd, plain + with_pidfd]
