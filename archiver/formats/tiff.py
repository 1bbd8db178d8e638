"""TIFF files (TIFF 6.0, classic): one directory, descriptive tags, our private tag."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import envelope, ifd
from archiver.formats.facts import METADATA_LIMIT, Block, Encoded, Mode, Refusal, Step, Structure
from archiver.formats.ifd import LONG, SHORT, Directory, IfdInvalid, IfdReader, Order, Tree
from archiver.formats.scan import corrupt, refuse_data_after

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNATURES = (b"II*\0", b"MM\0*")
OURS = 65112  # in the range that TIFF leaves to private use within an organisation
_XMP, _ICC, _C2PA = 700, 34675, 52545
_BYTE, _UNDEFINED, _IFD = 1, 7, 13

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_OFFSETS, _TILE_BYTES, _SUB_IFDS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _YCBCR_SAMPLING = 324, 325, 330, 338, 339, 530
_CODING_TAGS = frozenset(
    {254, 255, *range(256, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 317, 320}
    | {*range(322, 326), 330, 332, 338, 339, 340, 341, 342, 347, *range(512, 522), 529, 530, 531, 532, OURS}
)
_RAW_TAGS = {50706: "DNG", 37398: "TIFF/EP raw", 33422: "raw mosaic", 50740: "Sony ARW"}
_LAYERS = 37724
_OLD_JPEG, _JPEG, _DEFLATE, _UNCOMPRESSED = 6, 7, 8, 1
_COLOUR_MODELS = {3: "palette", 5: "CMYK", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "raw mosaic", 34892: "linear raw"}

# Qualities up to 100 are JPEG; above it stand deflate and no compression at all, which lose nothing.
_LOSSLESS, _PLAIN = 101, 102
LADDER = (
    *(Step(5, smooth) for smooth in (0, 64, 32, 16, 8, 4, 2)),
    *(Step(quality) for quality in range(5, 101)),
    Step(_LOSSLESS),
    Step(_PLAIN),
)
PREVIEW = Step(_LOSSLESS)
PREVIEW_LONG_SIDE = 48  # pixels


def _reader(file: BinaryIO) -> tuple[IfdReader, Directory]:
    reader = IfdReader(file)
    return reader, reader.directory(reader.first)


def examine(file: BinaryIO) -> Structure:
    """Read the directory. Raises ImageRefused."""
    try:
        reader, main = _reader(file)
        _refuse_raw(reader, main)
        if main.next:
            raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="several pages")
        if main.get(_SUB_IFDS) or main.get(_LAYERS) or reader.integer(main, _SUBFILE, 0) & 5:
            raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="layers or reduced pictures")
        mode = _mode(reader, main)
        width, height = reader.integer(main, _WIDTH, 0), reader.integer(main, _HEIGHT, 0)
        if not width or not height:
            raise ImageRefused(reason=Refusal.NO_PIXELS, detail=f"{width}x{height} pixels")
        end = max(_data_end(reader, main), ifd.extent_end(reader, main))
        found = _blocks(reader)
    except IfdInvalid as error:
        raise corrupt(str(error)) from error
    refuse_data_after(file, end)
    return Structure(width, height, mode, found)


def _refuse_raw(reader: IfdReader, main: Directory) -> None:
    for tag, name in _RAW_TAGS.items():
        if main.get(tag):
            raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail=name)
    if reader.size >= 10 and reader.bytes_at(8, 2) == b"CR":
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail="Canon CR2")
    make = main.get(271)
    if main.get(_SUB_IFDS) and make and reader.value(make).upper().startswith((b"NIKON", b"SONY", b"PENTAX", b"EPSON")):
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail="camera raw (NEF, ARW, PEF)")
    if main.get(_C2PA):
        raise ImageRefused(reason=Refusal.SIGNED, detail="a C2PA manifest speaks for the original pixels")


def _mode(reader: IfdReader, main: Directory) -> Mode:
    photometric = reader.integer(main, _PHOTOMETRIC, -1)
    if name := _COLOUR_MODELS.get(photometric):
        raise ImageRefused(reason=Refusal.COLOUR_MODEL, detail=name)
    bits_field, format_field = main.get(_BITS), main.get(_SAMPLE_FORMAT)
    bits = reader.integers(bits_field) if bits_field else (1,)
    if set(bits) != {8}:
        raise ImageRefused(reason=Refusal.BIT_DEPTH, detail=f"{max(bits, default=0)} bits per channel")
    if format_field and set(reader.integers(format_field)) != {1}:
        raise ImageRefused(reason=Refusal.BIT_DEPTH, detail="signed or floating-point samples")
    samples = reader.integer(main, _SAMPLES, 1)
    if main.get(_EXTRA_SAMPLES) or (photometric in (2, 6) and samples > 3) or (photometric in (0, 1) and samples > 1):
        raise ImageRefused(reason=Refusal.TRANSPARENT, detail="an extra channel")
    if reader.integer(main, _COMPRESSION, 1) == _OLD_JPEG:
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail="old-style JPEG in TIFF")
    if (photometric, samples) in ((0, 1), (1, 1)):
        return "L"
    if (photometric, samples) in ((2, 3), (6, 3)):
        return "RGB"
    raise ImageRefused(reason=Refusal.COLOUR_MODEL, detail=f"photometric {photometric} with {samples} channels")


def _data_end(reader: IfdReader, main: Directory) -> int:
    """Where the last strip or tile ends; beyond the file is an error."""
    offsets, sizes = main.get(_STRIP_OFFSETS), main.get(_STRIP_BYTES)
    if main.get(_TILE_OFFSETS):
        offsets, sizes = main.get(_TILE_OFFSETS), main.get(_TILE_BYTES)
    if not offsets or not sizes or offsets.count != sizes.count or not offsets.count:
        raise corrupt("no image data")
    end = max(at + size for at, size in zip(reader.integers(offsets), reader.integers(sizes), strict=True))
    if end > reader.size:
        raise corrupt(f"{reader.size} of {end} bytes are left")
    return end


def blocks(file: BinaryIO) -> tuple[Block, ...]:
    """The descriptive tags. Raises ImageRefused."""
    try:
        return _blocks(IfdReader(file))
    except IfdInvalid as error:
        raise corrupt(str(error)) from error


def _blocks(reader: IfdReader) -> tuple[Block, ...]:
    """One block a tag, in the file's byte order; directories below as small TIFF structures.

    The order itself comes first.
    """
    found = []
    size = 0
    for field in reader.directory(reader.first).fields:
        if field.tag in _CODING_TAGS:
            continue
        size += field.size
        if size > METADATA_LIMIT:
            raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail=f"tag {field.tag} has {field.size} bytes")
        if field.type == _IFD and field.tag not in ifd.POINTERS:
            raise ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail=f"tag {field.tag} is a directory of its own")
        if field.tag in ifd.POINTERS:
            below = reader.tree(reader.first_of(field))
            value = ifd.header(reader.order, 8) + ifd.serialise(below, reader.order, 8)
        else:
            value = reader.value(field)
        found.append(Block(struct.pack(">HH", field.tag, field.type), value))
    if not found:
        return ()
    return (Block(b"II" if reader.order == "<" else b"MM", b""), *sorted(found, key=lambda block: block.kind))


def _order(blocks: Sequence[Block]) -> Order:
    return ">" if blocks and blocks[0].kind == b"MM" else "<"


def _tag(block: Block) -> int:
    return int.from_bytes(block.kind[:2], "big") if len(block.kind) == 4 else -1


def exif_of(blocks: Sequence[Block]) -> bytes | None:
    """The tags as an EXIF block: a TIFF structure without a picture."""
    if not blocks:
        return None
    order = _order(blocks)
    return ifd.header(order, 8) + ifd.serialise(Tree(_fields(blocks)), order, 8)


def icc_of(blocks: Sequence[Block]) -> bytes | None:
    """The colour profile."""
    return next((block.data for block in blocks if _tag(block) == _ICC), None)


def xmp_of(blocks: Sequence[Block]) -> list[bytes]:
    """The XMP packet."""
    return [block.data for block in blocks if _tag(block) == _XMP]


def with_xmp(blocks: Sequence[Block], packets: Sequence[bytes]) -> tuple[Block, ...]:
    """The blocks with this packet as the XMP tag."""
    kept = [block for block in blocks if _tag(block) != _XMP]
    if not packets:
        return tuple(kept) if any(len(block.kind) == 4 for block in kept) else ()
    kind = next((block.kind for block in blocks if _tag(block) == _XMP), struct.pack(">HH", _XMP, _BYTE))
    marks = [block for block in kept if len(block.kind) == 2] or [Block(b"II", b"")]
    tags = [block for block in kept if len(block.kind) == 4]
    return (*marks, *sorted([*tags, *(Block(kind, packet) for packet in packets)], key=lambda block: block.kind))


def find_sealed(file: BinaryIO) -> bytes | None:
    """The envelope's bytes, if any: we write the directory right behind the header.

    Raises EnvelopeDamaged on a broken one.
    """
    try:
        reader = IfdReader(file)
        field = reader.directory(8).get(OURS) if reader.first == 8 else None
        if field is None or field.type != _UNDEFINED:
            return None
        head = reader.bytes_at(field.at, min(field.size, envelope.HEAD_BYTES))
        wanted = envelope.sealed_length(head)
        return None if wanted is None else reader.bytes_at(field.at, min(field.size, wanted))
    except IfdInvalid as error:
        raise corrupt(str(error)) from error


def ours(file: BinaryIO) -> list[tuple[int, int]]:
    """Where our tag's value begins and ends. Raises ImageRefused on a broken file."""
    try:
        reader = IfdReader(file)
        field = reader.directory(8).get(OURS) if reader.first == 8 else None
    except IfdInvalid as error:
        raise corrupt(str(error)) from error
    return [] if field is None else [(field.at, field.at + field.size)]


def encode(image: Image.Image, step: Step) -> Encoded:
    """One strip: JPEG, deflate with horizontal differencing, or the samples as they are."""
    mode: Mode = "L" if image.mode == "L" else "RGB"
    if step.quality == _PLAIN:
        data = image.tobytes()
    elif step.quality == _LOSSLESS:
        data = zlib.compress(_differences(image), 3)
    else:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=step.quality, subsampling="4:4:4", optimize=step.quality < 30)
        data = buffer.getvalue()
    return Encoded(data, image.width, image.height, mode, step)


def encode_array(picture: NDArray[np.uint8], step: Step) -> Encoded:
    """As `encode`."""
    return encode(Image.fromarray(picture), step)


def _differences(image: Image.Image) -> bytes:
    """Each sample less its left neighbour, modulo 256 (predictor 2)."""
    import numpy as np

    samples = np.asarray(image)
    result = samples.copy()
    result[:, 1:] -= samples[:, :-1]
    return result.tobytes()


def write(picture: Encoded, blocks: Sequence[Block], sealed: bytes, length: int | None = None) -> bytes:
    """The file: header, directory with metadata and envelope, padding, picture.

    Raises ValueError if it is longer than `length`.
    """
    order = _order(blocks)
    head = _head(picture, blocks, sealed, order, 0)
    at = len(head) if length is None else (length - len(picture.data)) // 2 * 2
    if at < len(head):
        raise ValueError(f"{len(head) - at} bytes too long")
    whole = _head(picture, blocks, sealed, order, at).ljust(at, b"\0") + picture.data
    return whole if length is None else whole.ljust(length, b"\0")


def _head(picture: Encoded, blocks: Sequence[Block], sealed: bytes, order: Order, strip_at: int) -> bytes:
    coding: list[tuple[int, int, bytes | Tree]] = [(OURS, _UNDEFINED, sealed)]
    for tag, kind, values in _coding(picture, strip_at):
        coding.append((tag, kind, struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)))
    fields = sorted([*_fields(blocks), *coding], key=lambda field: field[0])
    return ifd.header(order, 8) + ifd.serialise(Tree(tuple(fields)), order, 8)


def _coding(picture: Encoded, strip_at: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """The tags that describe one strip of this picture."""
    colour = picture.mode == "RGB"
    quality = picture.step.quality
    is_jpeg = quality < _LOSSLESS
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        (_WIDTH, LONG, (picture.width,)),
        (_HEIGHT, LONG, (picture.height,)),
        (_BITS, SHORT, (8, 8, 8) if colour else (8,)),
        (_COMPRESSION, SHORT, (_JPEG if is_jpeg else _DEFLATE if quality == _LOSSLESS else _UNCOMPRESSED,)),
        (_PHOTOMETRIC, SHORT, (1 if not colour else 6 if is_jpeg else 2,)),
        (_STRIP_OFFSETS, LONG, (strip_at,)),
        (_SAMPLES, SHORT, (3 if colour else 1,)),
        (_ROWS, LONG, (picture.height,)),
        (_STRIP_BYTES, LONG, (len(picture.data),)),
        (_PLANAR, SHORT, (1,)),
    ]
    if quality == _LOSSLESS:
        tags.append((_PREDICTOR, SHORT, (2,)))
    if is_jpeg and colour:
        tags.append((_YCBCR_SAMPLING, SHORT, (1, 1)))
    return tags


def _fields(blocks: Sequence[Block]) -> tuple[tuple[int, int, bytes | Tree], ...]:
    fields: list[tuple[int, int, bytes | Tree]] = []
    for block in blocks:
        if len(block.kind) != 4:
            continue
        tag, kind = struct.unpack(">HH", block.kind)
        if tag in ifd.POINTERS:
            fields.append((tag, LONG, IfdReader.of(block.data).tree(8)))
        else:
            fields.append((tag, kind, block.data))
    return tuple(fields)
