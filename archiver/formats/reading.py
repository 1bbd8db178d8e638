"""Reading back what is written into placeholders and generated images."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from archiver.errors import EnvelopeDamaged, ImageRefused
from archiver.formats.containers import container_of, sealed_in, sniff
from archiver.formats.envelope import Sealed, Storage
from archiver.formats.facts import BLOCK, Envelope, Kind, Metadata, Refusal
from archiver.formats.foreign import name_of


def read_envelope(file: BinaryIO) -> Envelope | None:
    """What a placeholder or a generated image carries; None for any other file.

    Of a placeholder, the first 4096 bytes are enough. Raises EnvelopeDamaged if there is an envelope that cannot be
    trusted, RecordVersionUnknown if it is newer than this program.
    """
    found = sealed_in(file)
    return None if found is None else found[1].envelope


def read_metadata(file: BinaryIO) -> Metadata:
    """The original's metadata, from an original, a placeholder or a generated image.

    Raises ImageRefused, EnvelopeDamaged.
    """
    found = sealed_in(file)
    if found is None:
        file.seek(0)
        head = file.read(64)
        fmt = sniff(head)
        if fmt is None:
            raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail=name_of(head))
        return Metadata(fmt, container_of(fmt).blocks(file))
    fmt, sealed = found
    container = container_of(fmt)
    if sealed.envelope.kind is Kind.GENERATED:
        packets = [block.data for block in Metadata.from_bytes(sealed.packed)] if sealed.packed else []
        return Metadata(fmt, container.with_xmp(container.blocks(file), packets))
    if sealed.storage is Storage.NATIVE:
        return Metadata(fmt, container.blocks(file))
    return Metadata.from_bytes(sealed.packed if sealed.packed is not None else _behind(file, sealed))


def _behind(file: BinaryIO, sealed: Sealed) -> bytes:
    """The packed metadata that starts at a placeholder's second block."""
    file.seek(BLOCK)
    packed = file.read(sealed.packed_size)
    if zlib.crc32(packed) != sealed.packed_crc:
        raise EnvelopeDamaged(problem="its metadata behind the first block is gone or changed")
    return packed
