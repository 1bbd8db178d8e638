"""Deciding whether an image may be archived, and reading it for the codec."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from archiver.codec.picture import Picture, working_size
from archiver.codec.record import MAX_SIDE
from archiver.errors import EnvelopeDamaged, ImageRefused, RecordVersionUnknown
from archiver.formats import ifd, pixels, xmp
from archiver.formats.containers import container_of, sniff
from archiver.formats.facts import (
    BLOCKS_LIMIT,
    METADATA_LIMIT,
    RECORD_ROOM,
    Format,
    Inspection,
    Label,
    Limits,
    Metadata,
    Refusal,
    Structure,
)
from archiver.formats.foreign import name_of
from archiver.formats.scan import file_length
from archiver.formats.stamp import Found, look

_LONGEST_LABEL = Label("x" * 64, "x" * 64, bytes(32), "x" * 64, "x" * 64)
_PLENTY = 16  # bytes for each 16x16 pixels: every format codes one flat colour in far fewer
_RESERVE = RECORD_ROOM + 1024  # bytes for a record, its envelope and the container's own headers


def survey(file: BinaryIO, limits: Limits) -> Inspection:
    """Read the container, which says all but whether the pixels decode; `load_picture` finds that out.

    Raises ImageRefused with the reason why the file must stay as it is.
    """
    length = file_length(file)
    if length == 0:
        raise ImageRefused(reason=Refusal.NO_PIXELS, detail="the file is empty")
    if length > limits.file_size:
        raise ImageRefused(reason=Refusal.TOO_LARGE, detail=f"{length} bytes, the limit is {limits.file_size}")
    file.seek(0)
    head = file.read(64)
    fmt = sniff(head)
    if fmt is None:
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail=name_of(head))
    refuse_ours(file)
    if length < limits.smallest_file:
        raise ImageRefused(reason=Refusal.TOO_SMALL, detail=f"{length} bytes: a placeholder takes as much")
    structure = container_of(fmt).examine(file)
    if structure.width * structure.height > limits.pixels:
        size = f"{structure.width}x{structure.height} pixels"
        raise ImageRefused(reason=Refusal.TOO_LARGE, detail=f"{size}, the limit is {limits.pixels} pixels")
    if max(structure.width, structure.height) > MAX_SIDE:
        size = f"{structure.width}x{structure.height} pixels"
        raise ImageRefused(reason=Refusal.TOO_LARGE, detail=f"{size}, a record tells of sides up to {MAX_SIDE}")
    metadata = Metadata(fmt, tuple(structure.blocks))
    refuse_unkeepable(structure, metadata, length)
    exif = container_of(fmt).exif_of(metadata.blocks)
    orientation = ifd.orientation(exif) if exif else 1
    return Inspection(fmt, structure.width, structure.height, orientation, structure.mode, metadata)


def refuse_ours(file: BinaryIO) -> None:
    """Raise ImageRefused for a placeholder, and for what was generated from one and never edited."""
    try:
        found = look(file)
    except (EnvelopeDamaged, RecordVersionUnknown) as error:
        raise ImageRefused(reason=Refusal.PLACEHOLDER, detail=error.message) from error
    if found is Found.PLACEHOLDER:
        raise ImageRefused(reason=Refusal.PLACEHOLDER, detail="it carries a record")
    if found in (Found.GENERATED, Found.HEAD):
        raise ImageRefused(reason=Refusal.GENERATED, detail="it was generated from a record")


def refuse_unkeepable(structure: Structure, metadata: Metadata, length: int) -> None:
    """A recall must never fail for want of space or because metadata cannot be put back: what could is refused here."""
    if metadata.size() > METADATA_LIMIT:
        raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail=f"{metadata.size()} bytes of metadata")
    if len(metadata.blocks) > BLOCKS_LIMIT:
        raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail=f"{len(metadata.blocks)} pieces of metadata")
    container = container_of(metadata.format)
    packets = container.xmp_of(metadata.blocks)
    labelled = [xmp.with_label(packet, _LONGEST_LABEL) for packet in packets or (None,)]
    native = sum(len(block.data) + 16 for block in container.with_xmp(metadata.blocks, labelled))
    packed = len(metadata.to_bytes()) if packets else 0
    room = length - native - packed - _RESERVE
    if room < _smallest_picture(structure, metadata.format, room):
        raise ImageRefused(
            reason=Refusal.DOES_NOT_FIT, detail=f"{length} bytes cannot hold a picture of this size with its metadata"
        )


def _smallest_picture(structure: Structure, fmt: Format, room: int) -> int:
    """Bytes that one flat colour takes at this size; not worked out where `room` is plenty."""
    plenty = 1024 + _PLENTY * -(-structure.width // 16) * -(-structure.height // 16)
    if room >= plenty or room <= 0:
        return 1
    container = container_of(fmt)
    colour = 128 if structure.mode == "L" else (96, 128, 160)
    flat = Image.new(structure.mode, (structure.width, structure.height), colour)
    with pixels.decoding():
        return len(container.encode(flat, container.LADDER[0]).data)


def load_picture(file: BinaryIO, inspection: Inspection, long_side: int, multiple: int) -> Picture:
    """The picture upright, in sRGB, at working size (see `working_size`; sides in pixels).

    It is decoded to its end: raises ImageRefused for a file that does not decode.
    """
    width, height = inspection.upright_size
    size = working_size(width, height, long_side, multiple)
    stored = size if inspection.orientation < 5 else size[::-1]
    # A reduced JPEG is the mean of whole blocks: as good a start as any for the last step, and far smaller.
    image = pixels.decode(
        file, inspection.format, (inspection.width, inspection.height), inspection.mode, (stored[0], stored[1])
    )
    icc = container_of(inspection.format).icc_of(inspection.metadata.blocks)
    with pixels.decoding():
        small = pixels.shrunk(image, (stored[0], stored[1]))
        upright = pixels.to_upright(pixels.to_srgb(small, icc), inspection.orientation)
        return Picture(pixels.array(upright), width, height)
