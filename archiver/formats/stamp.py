"""Whether a generated image is still what was generated: it carries a stamp of all its bytes but the envelope's own.

A label says that an image was generated, not that nobody worked on it since. Only what is untouched may become a
placeholder again; an edited image is its user's, and an original like any other.
"""

from __future__ import annotations

import zlib
from enum import Enum, auto
from typing import BinaryIO

from archiver.errors import ImageRefused
from archiver.formats.containers import container_of, sealed_in
from archiver.formats.facts import BLOCK, Format, Kind
from archiver.formats.scan import file_length

_PIECE = 1 << 20  # bytes read at a time


class Found(Enum):
    """What a file turned out to be."""

    ORDINARY = auto()  # it carries no envelope
    PLACEHOLDER = auto()
    GENERATED = auto()  # as it was generated, byte for byte
    HEAD = auto()  # of a generated image, the first block: copied by the holes of a placeholder that was being filled
    EDITED = auto()  # generated, and written to since


def look(file: BinaryIO) -> Found:
    """What a file is to us; a generated image is read to its end. Raises EnvelopeDamaged, RecordVersionUnknown."""
    found = sealed_in(file)
    if found is None:
        return Found.ORDINARY
    fmt, sealed = found
    if sealed.envelope.kind is Kind.PLACEHOLDER:
        return Found.PLACEHOLDER
    if file_length(file) == sealed.envelope.source.length and sealed.envelope.stamp == stamp_of(file, fmt):
        return Found.GENERATED
    return Found.HEAD if _ends_with_its_first_block(file) else Found.EDITED


def stamp_of(file: BinaryIO, fmt: Format) -> int:
    """CRC-32 of a file without what our containers hold; 0 for one that cannot be read as what it says it is."""
    try:
        ours = container_of(fmt).ours(file)
    except ImageRefused:
        return 0
    stamp, at = 0, 0
    for start, end in [*ours, (file_length(file),) * 2]:
        file.seek(at)
        while at < start and (piece := file.read(min(_PIECE, start - at))):
            stamp = zlib.crc32(piece, stamp)
            at += len(piece)
        at = end
    return stamp


def _ends_with_its_first_block(file: BinaryIO) -> bool:
    file.seek(BLOCK)
    while piece := file.read(_PIECE):
        if piece.count(0) != len(piece):
            return False
    return True
