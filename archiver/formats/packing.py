"""Metadata as compressed bytes: a tiny framing under zstd with a dictionary of what cameras and editors commonly write.

    magic "AM", dictionary id u8, crc32 u32, zstd frame of: format u8, then per block: kind length u8, kind, length
    u32, bytes

A dictionary that has shipped is never changed: a better one gets the next id.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from importlib.resources import files

import zstandard

from archiver.errors import EnvelopeDamaged
from archiver.formats.facts import METADATA_LIMIT, Block, Format, Metadata

MAGIC = b"AM"
DICTIONARY = 1
_LEVEL = 19
_FRAMED_LIMIT = METADATA_LIMIT + (1 << 16)  # block headers come on top of the payload
_HEAD = struct.Struct(">2sBI")
_FORMATS = (Format.JPEG, Format.PNG, Format.WEBP, Format.TIFF)


@cache
def _dictionary(number: int) -> zstandard.ZstdCompressionDict:
    data = files("archiver.formats").joinpath(f"metadata-{number}.zdict").read_bytes()
    return zstandard.ZstdCompressionDict(data)


def pack_metadata(metadata: Metadata) -> bytes:
    """Compress; deterministic for one version of zstd."""
    framed = bytearray([_FORMATS.index(metadata.format)])
    for block in metadata:
        framed += bytes([len(block.kind)]) + block.kind + struct.pack(">I", len(block.data)) + block.data
    if len(framed) > _FRAMED_LIMIT:
        raise ValueError(f"{len(framed)} bytes of metadata, at most {_FRAMED_LIMIT} can be kept")
    compressor = zstandard.ZstdCompressor(
        level=_LEVEL, dict_data=_dictionary(DICTIONARY), write_dict_id=False, write_content_size=True
    )
    packed = compressor.compress(bytes(framed))
    return _HEAD.pack(MAGIC, DICTIONARY, zlib.crc32(packed)) + packed


def unpack_metadata(data: bytes) -> Metadata:
    """The inverse of `pack_metadata`, never more than METADATA_LIMIT of output; raises EnvelopeDamaged."""
    if len(data) < _HEAD.size:
        raise EnvelopeDamaged(problem="its metadata is cut short")
    magic, number, crc = _HEAD.unpack_from(data)
    packed = data[_HEAD.size :]
    if magic != MAGIC or number != DICTIONARY or zlib.crc32(packed) != crc:
        raise EnvelopeDamaged(problem="its metadata does not match its checksum")
    try:
        if not 0 < zstandard.get_frame_parameters(packed).content_size <= _FRAMED_LIMIT:
            raise EnvelopeDamaged(problem="its metadata claims an impossible size")
        framed = zstandard.ZstdDecompressor(dict_data=_dictionary(number)).decompress(packed)
        return _unframe(framed)
    except (zstandard.ZstdError, struct.error, IndexError, ValueError) as error:
        raise EnvelopeDamaged(problem=f"its metadata cannot be unpacked ({error})") from error


def _unframe(framed: bytes) -> Metadata:
    blocks = []
    at = 1
    while at < len(framed):
        kind_end = at + 1 + framed[at]
        (size,) = struct.unpack_from(">I", framed, kind_end)
        start = kind_end + 4
        if start + size > len(framed):
            raise ValueError("a block is cut short")
        blocks.append(Block(framed[at + 1 : kind_end], framed[start : start + size]))
        at = start + size
    return Metadata(_FORMATS[framed[0]], tuple(blocks))
