"""What goes over HTTP between a caller and a decoder on another host. No torch, no HTTP library.

POST /v1/decode takes records one after the other, as they are in placeholders (they delimit and check themselves), and
gives for each, in the same order,

    magic 4 | device's length 1 | height 2 | width 2 | length of the pixels 4 | CRC-32 of them 4 | device | pixels

big-endian; the pixels are rows of sRGB bytes, compressed by zstd without loss. GET /v1/profiles, /v1/stats and
/v1/health give JSON, and so does all that goes wrong: {"error": a class of archiver.errors, "facts": what it was raised
with}. Another layout gets another version in the path.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from archiver import errors
from archiver.codec.record import MAX_BODY, Record
from archiver.decoder.engine import Generated
from archiver.errors import ArchiverError, DecoderAnswerInvalid, RecordCorrupt

DECODE = "/v1/decode"
PROFILES = "/v1/profiles"
HEALTH = "/v1/health"
STATS = "/v1/stats"
PRIORITY = "Archiver-Priority"  # "interactive" or "bulk"
DEADLINE = "Archiver-Deadline"  # seconds from now; clocks of two hosts differ
RECORDS_TYPE = "application/vnd.archiver.records"
PICTURES_TYPE = "application/vnd.archiver.pictures"
MOST_RECORDS = 64  # of one request
MOST_REQUEST = 1 << 20  # bytes: 64 records of everything but noise; far over any that a scheme makes
MOST_SIDE = 4096  # pixels at working size
MOST_JSON = 1 << 20
_MAGIC = b"ARP1"
_HEAD = struct.Struct(">4sBHHII")
_LEVEL = 1  # of zstd: a picture takes 3 ms; higher levels gain little on noise

# What a decoder may say of a request; nothing else is ever rebuilt from an answer.
_TELLABLE = (
    "RecordCorrupt",
    "RecordVersionUnknown",
    "ProfileUnknown",
    "ProfileInvalid",
    "WeightsDamaged",
    "SchemeUnsupported",
    "ModelsNotInstalled",
    "DecoderBusy",
    "DecoderFailed",
    "DecoderRefused",
    "DecodeTooCostly",
    "DeadlineMissed",
)


def pack_records(records: Sequence[Record]) -> bytes:
    """The body of a request."""
    return b"".join(record.to_bytes() for record in records)


def unpack_records(body: bytes) -> list[Record]:
    """The records of a request, at least one.

    Raises RecordCorrupt (also for more than MOST_RECORDS), RecordVersionUnknown.
    """
    records: list[Record] = []
    view, position = memoryview(body), 0
    while position < len(body) or not records:
        if len(records) == MOST_RECORDS:
            raise RecordCorrupt(problem=f"more than {MOST_RECORDS} in one request")
        record, length = Record.read(bytes(view[position : position + MAX_BODY + 16]))
        records.append(record)
        position += length
    return records


def pack_picture(picture: Generated) -> bytes:
    """One picture of an answer."""
    height, width, _ = picture.pixels.shape
    device = picture.device.encode()[:255]
    pixels = zstandard.ZstdCompressor(level=_LEVEL).compress(np.ascontiguousarray(picture.pixels).tobytes())
    return _HEAD.pack(_MAGIC, len(device), height, width, len(pixels), zlib.crc32(pixels)) + device + pixels


def unpack_pictures(body: bytes, count: int, where: str) -> list[Generated]:
    """The `count` pictures of an answer; nothing is reserved for more than they hold.

    Raises DecoderAnswerInvalid.
    """
    try:
        pictures = list(_pictures(memoryview(body)))
    except (struct.error, ValueError, zstandard.ZstdError) as problem:
        raise DecoderAnswerInvalid(where=where, problem=problem) from problem
    if len(pictures) != count:
        raise DecoderAnswerInvalid(where=where, problem=f"{len(pictures)} pictures for {count} records")
    return pictures


def require_sizes(pictures: Sequence[Generated], records: Sequence[Record], where: str) -> None:
    """A picture of another size is not that of its record, and would be stretched to its file's size unseen.

    How many pixels a cell of the grid has is the profile's, which need not be known here: as many each way.
    Raises DecoderAnswerInvalid.
    """
    for picture, record in zip(pictures, records, strict=True):
        height, width = picture.pixels.shape[:2]
        columns, rows = record.grid
        if width % columns or width // columns * rows != height:
            problem = f"a picture of {width}x{height} for a record of {columns}x{rows} cells"
            raise DecoderAnswerInvalid(where=where, problem=problem)


def most_answer(count: int) -> int:
    """Bytes that an answer with `count` pictures never exceeds."""
    return count * (_HEAD.size + 255 + 3 * MOST_SIDE * MOST_SIDE + (1 << 16))


def _pictures(body: memoryview) -> Iterator[Generated]:
    while body:
        magic, named, height, width, length, checksum = _HEAD.unpack_from(body)
        if magic != _MAGIC or not 1 <= height <= MOST_SIDE or not 1 <= width <= MOST_SIDE:
            raise ValueError(f"a picture of {width}x{height} that begins with {bytes(magic)!r}")
        device, pixels = body[_HEAD.size :][:named], body[_HEAD.size + named :][:length]
        if len(pixels) != length or zlib.crc32(pixels) != checksum:
            raise ValueError("a picture is cut off or its checksum does not match")
        yield Generated(_pixels(bytes(pixels), height, width), bytes(device).decode())
        body = body[_HEAD.size + named + length :]


def _pixels(compressed: bytes, height: int, width: int) -> NDArray[np.uint8]:
    size = height * width * 3
    if zstandard.frame_content_size(compressed) != size:
        raise ValueError("a picture has another size than its head says")
    plain = zstandard.ZstdDecompressor().decompress(compressed, max_output_size=size)
    return np.frombuffer(plain, np.uint8).reshape(height, width, 3)


def pack_error(error: ArchiverError) -> bytes:
    """A failure as JSON; one that is none of a caller's business says only its message."""
    if type(error).__name__ not in _TELLABLE:
        error = errors.DecoderFailed(where="there", reason=error.message)
    facts = {name: value if isinstance(value, int | float) else str(value) for name, value in error.facts.items()}
    return json.dumps({"error": type(error).__name__, "facts": facts}).encode()


def unpack_error(body: bytes, where: str) -> ArchiverError:
    """The failure that an answer tells of, as it would have been raised here; `where` names the decoder."""
    try:
        raw = json.loads(body)
        name, facts = raw["error"], raw["facts"]
        if name not in _TELLABLE or not isinstance(facts, dict):
            raise ValueError(f"error {name!r}")
        known: dict[str, Any] = {str(key): value for key, value in facts.items()}
        if "where" in known:
            known["where"] = where
        error: ArchiverError = getattr(errors, name)(**known)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as problem:
        return DecoderAnswerInvalid(where=where, problem=f"{type(problem).__name__}: {problem}")
    return error
