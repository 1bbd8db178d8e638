"""JPEG files (ITU-T T.81; JFIF; Exif): segments, metadata, our APP11 segments."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import envelope, ifd, jpeg_bands
from archiver.formats.facts import Block, Encoded, Mode, Refusal, Step, Structure
from archiver.formats.scan import corrupt, exactly, file_length, refuse_data_after

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNATURE = b"\xff\xd8\xff"
IDENTIFIER = b"archiver\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
ICC = b"ICC_PROFILE\0"
EXIF = b"Exif\0\0"

_SOI, _EOI, _SOS, _COM, _APP11 = 0xD8, 0xD9, 0xDA, 0xFE, 0xEB
_PAYLOAD = 65533
_MAX_SEGMENTS = 20_000
_LEAN, _FULL_CHROMA = 30, 90  # qualities below and from which on size and colour count for more than time
_LARGE = 1 << 18  # pixels from which on the time of encoding counts for more than a few bytes
_MAX_SCANS = 200
_MAX_FILL = 4096
_DECODABLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; Huffman and arithmetic
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_LS = 0xF7
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_PHOTOSHOP = b"Photoshop 3.0\0"
_PHOTOSHOP_THUMBNAILS = (0x0409, 0x040C)

LADDER = (
    *(Step(5, smooth) for smooth in (0, 64, 32, 16, 8, 4, 2)),
    *(Step(quality) for quality in range(5, 101)),
)
PREVIEW = Step(40)
PREVIEW_LONG_SIDE = 256  # pixels


@dataclass(frozen=True, slots=True)
class _Segment:
    marker: int
    at: int  # of the payload
    size: int  # of the payload


def _segments(file: BinaryIO, *, whole: bool = False) -> Iterator[_Segment]:
    """Segments from SOI to the first SOS or EOI, both included, or with `whole` through all scans to EOI.

    The consumer may move the file's position.
    """
    # Full ones come on top: our padding has as many of them as the file is long.
    most = _MAX_SEGMENTS + file_length(file) // _PAYLOAD
    file.seek(0)
    if exactly(file, 2) != b"\xff\xd8":
        raise corrupt("no start of image")
    at = 2
    for _ in range(most):
        segment = _segment_at(file, at)
        yield segment
        if segment.marker == _EOI or (segment.marker == _SOS and not whole):
            return
        at = segment.at + segment.size
        if segment.marker == _SOS:
            at = _after_scan(file, at)
    raise corrupt(f"more than {most} segments")


def _segment_at(file: BinaryIO, at: int) -> _Segment:
    file.seek(at)
    head = exactly(file, 2)
    if head[0] != 0xFF:
        raise corrupt(f"no marker at byte {at}")
    marker, fill = head[1], 0
    while marker == 0xFF and fill < _MAX_FILL:
        marker = exactly(file, 1)[0]
        fill += 1
    if marker in (_EOI, _SOI) or 0xD0 <= marker <= 0xD7 or marker in (0x00, 0x01, 0xFF):
        if marker != _EOI:
            raise corrupt(f"marker {marker:#04x} at byte {at}")
        return _Segment(marker, at + 2 + fill, 0)
    (size,) = struct.unpack(">H", exactly(file, 2))
    if size < 2:
        raise corrupt(f"a segment of {size} bytes at byte {at}")
    return _Segment(marker, at + 4 + fill, size - 2)


def _payload(file: BinaryIO, segment: _Segment, limit: int = _PAYLOAD) -> bytes:
    file.seek(segment.at)
    return exactly(file, min(segment.size, limit))


def _after_scan(file: BinaryIO, at: int) -> int:
    """Where the next marker is after entropy-coded data that starts at byte `at`."""
    while True:
        file.seek(at)
        window = file.read(1 << 20)
        if len(window) < 2:
            raise corrupt("the image data has no end")
        if match := _MARKER.search(window):
            return at + match.start()
        at += len(window) - window.endswith(b"\xff")


def examine(file: BinaryIO) -> Structure:
    """Walk the whole file, scans included. Raises ImageRefused."""
    frame: bytes | None = None
    scans = 0
    blocks: list[Block] = []
    for segment in _segments(file, whole=True):
        if segment.marker in _FRAMES or segment.marker == _JPEG_LS:
            if segment.marker not in _DECODABLE:
                raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail="lossless or hierarchical JPEG")
            if frame is not None:
                raise corrupt("two frame headers")
            frame = _payload(file, segment)
        elif segment.marker == _SOS:
            scans += 1
            if scans > _MAX_SCANS:
                raise corrupt(f"more than {_MAX_SCANS} scans")
        elif block := _metadata_block(file, segment):
            if scans:
                raise ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail="metadata between scans")
            blocks.append(block)
    if frame is None or not scans:
        raise corrupt("no image data")
    width, height, mode = _frame(frame)
    refuse_data_after(file, segment.at)
    return Structure(width, height, mode, blocks)


def _frame(frame: bytes) -> tuple[int, int, Mode]:
    if len(frame) < 6:
        raise corrupt("the frame header is cut short")
    depth, height, width, components = struct.unpack_from(">BHHB", frame)
    if depth != 8:
        raise ImageRefused(reason=Refusal.BIT_DEPTH, detail=f"{depth} bits per channel")
    if not width or not height:
        raise ImageRefused(reason=Refusal.NO_PIXELS, detail=f"{width}x{height} pixels")
    if components == 4:
        raise ImageRefused(reason=Refusal.COLOUR_MODEL, detail="CMYK or YCCK")
    if components not in (1, 3):
        raise ImageRefused(reason=Refusal.COLOUR_MODEL, detail=f"{components} channels")
    return width, height, "L" if components == 1 else "RGB"


def blocks(file: BinaryIO) -> tuple[Block, ...]:
    """The metadata segments before the first scan. Raises ImageRefused."""
    found = (_metadata_block(file, segment) for segment in _segments(file))
    return tuple(block for block in found if block)


def _metadata_block(file: BinaryIO, segment: _Segment) -> Block | None:
    """The segment as it is kept; None if it describes the coding or holds a thumbnail.

    Raises ImageRefused if it announces more than one picture, or signs the one there is.
    """
    marker = segment.marker
    if not (0xE0 <= marker <= 0xEF or marker == _COM):
        return None
    data = _payload(file, segment)
    if data.startswith((b"MPF\0", b"urn:iso:std:iso:ts:21496:")) and marker == 0xE2:
        raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="multi-picture file or HDR gain map")
    if marker == _APP11 and data.startswith(b"HDR_RI"):
        raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="JPEG-HDR residual image")
    if marker == _APP11 and data.startswith(b"JP") and b"c2pa" in data:
        raise ImageRefused(reason=Refusal.SIGNED, detail="a C2PA manifest speaks for the original pixels")
    if (marker == _APP11 and data.startswith(IDENTIFIER)) or (marker == 0xEE and data.startswith(b"Adobe")):
        return None
    if marker == 0xE0 and data.startswith(b"JFXX\0"):
        return None
    if marker == 0xE0 and data.startswith(b"JFIF\0") and len(data) >= 14:
        data = data[:12] + b"\0\0"
    elif marker == 0xE1 and data.startswith(EXIF):
        data = EXIF + ifd.without_thumbnail(data[len(EXIF) :])
    elif marker == 0xED and data.startswith(_PHOTOSHOP):
        data = _PHOTOSHOP + _without_photoshop_thumbnail(data[len(_PHOTOSHOP) :])
    return Block(bytes([marker]), data)


def _without_photoshop_thumbnail(resources: bytes) -> bytes:
    """Photoshop image resources less their thumbnails.

    As they are if they do not parse to the last byte (one block of several).
    """
    kept = bytearray()
    at = 0
    while at < len(resources):
        if resources[at : at + 4] != b"8BIM" or at + 7 > len(resources):
            return resources
        (number,) = struct.unpack_from(">H", resources, at + 4)
        size_at = at + 6 + (resources[at + 6] // 2 + 1) * 2
        if size_at + 4 > len(resources):
            return resources
        (size,) = struct.unpack_from(">I", resources, size_at)
        end = size_at + 4 + size + size % 2
        if end > len(resources) + 1:
            return resources
        if number not in _PHOTOSHOP_THUMBNAILS:
            kept += resources[at:end]
        at = end
    return bytes(kept)


def exif_of(blocks: Sequence[Block]) -> bytes | None:
    """The EXIF block, from its TIFF header on."""
    return next((b.data[len(EXIF) :] for b in blocks if b.kind == b"\xe1" and b.data.startswith(EXIF)), None)


def icc_of(blocks: Sequence[Block]) -> bytes | None:
    """The colour profile, put together from its segments; None where some are missing."""
    parts = {}
    total = 0
    for block in blocks:
        if block.kind == b"\xe2" and block.data.startswith(ICC) and len(block.data) > len(ICC) + 2:
            number, total = block.data[len(ICC)], block.data[len(ICC) + 1]
            parts[number] = block.data[len(ICC) + 2 :]
    if not parts or sorted(parts) != list(range(1, total + 1)):
        return None
    return b"".join(parts[number] for number in sorted(parts))


def xmp_of(blocks: Sequence[Block]) -> list[bytes]:
    """The XMP packets; extended XMP stays where it is and is not among them."""
    return [block.data[len(XMP) :] for block in blocks if _is_xmp(block)]


def _is_xmp(block: Block) -> bool:
    return block.kind == b"\xe1" and block.data.startswith(XMP)


def with_xmp(blocks: Sequence[Block], packets: Sequence[bytes]) -> tuple[Block, ...]:
    """The blocks with these packets in the places of theirs; a first packet goes behind the JFIF and EXIF blocks."""
    packets = list(packets)
    kept: list[Block] = []
    places = sum(map(_is_xmp, blocks))
    for block in blocks:
        if not _is_xmp(block):
            kept.append(block)
        elif packets:
            kept.append(Block(b"\xe1", XMP + packets.pop(0)))
    if packets and not places:
        lead = 0
        while lead < len(kept) and (kept[lead].kind == b"\xe0" or kept[lead].data.startswith(EXIF)):
            lead += 1
        kept[lead:lead] = [Block(b"\xe1", XMP + packet) for packet in packets]
    if any(len(block.data) > _PAYLOAD for block in kept):
        raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail="no room for the label in its XMP segment")
    return tuple(kept)


def find_sealed(file: BinaryIO) -> bytes | None:
    """The envelope's bytes, if any. Raises ImageRefused on a broken file, EnvelopeDamaged on a broken envelope."""
    found = b""
    wanted: int | None = None
    for segment in _segments(file):
        if segment.marker == _APP11 and _payload(file, segment, len(IDENTIFIER)) == IDENTIFIER:
            found += _payload(file, segment)[len(IDENTIFIER) :]
            wanted = wanted or envelope.sealed_length(found)
            if wanted is None:
                return None
            if len(found) >= wanted:
                break
    return found or None


def ours(file: BinaryIO) -> list[tuple[int, int]]:
    """Where our segments' payloads begin and end, padding included. Raises ImageRefused on a broken file."""
    return [
        (segment.at, segment.at + segment.size)
        for segment in _segments(file)
        if segment.marker == _APP11 and _payload(file, segment, len(IDENTIFIER)) == IDENTIFIER
    ]


def encode(image: Image.Image, step: Step) -> Encoded:
    """A baseline JPEG, or at the low end a progressive one, whose size shrinks with its detail."""
    buffer = io.BytesIO()
    lean = step.quality < _LEAN
    image.save(
        buffer,
        "JPEG",
        quality=step.quality,
        subsampling="4:2:0" if step.quality < _FULL_CHROMA else "4:4:4",
        optimize=lean or image.width * image.height < _LARGE,
        progressive=lean,
    )
    mode: Mode = "L" if image.mode == "L" else "RGB"
    return Encoded(buffer.getvalue(), image.width, image.height, mode, step)


def encode_array(picture: NDArray[np.uint8], step: Step) -> Encoded:
    """As `encode`, of uint8 (h, w) or (h, w, 3): a large one is never copied, and encoded on all cores."""
    height, width = picture.shape[:2]
    if step.quality < _LEAN or width * height < _LARGE:
        return encode(Image.fromarray(picture), step)
    data = jpeg_bands.encode(picture, step.quality, subsampled=step.quality < _FULL_CHROMA)
    return Encoded(data, width, height, "L" if picture.ndim == 2 else "RGB", step)


def write(picture: Encoded, blocks: Sequence[Block], sealed: bytes, length: int | None = None) -> bytes:
    """The file: metadata, envelope, picture; padded to `length` bytes in our own segments.

    Raises ValueError if it is longer.
    """
    body = picture.data[2:]
    while body[1] == 0xE0:  # the encoder's own JFIF header; the original's is among the blocks
        body = body[2 + struct.unpack_from(">H", body, 2)[0] :]
    head = bytearray(b"\xff\xd8")
    for block in blocks:
        head += b"\xff" + block.kind + struct.pack(">H", len(block.data) + 2) + block.data
    for at in range(0, len(sealed), _PAYLOAD - len(IDENTIFIER)):
        head += _ours(sealed[at : at + _PAYLOAD - len(IDENTIFIER)])
    missing = 0 if length is None else length - len(head) - len(body)
    if missing < 0:
        raise ValueError(f"{-missing} bytes too long")
    return bytes(head) + _padding(missing) + body


def _ours(data: bytes) -> bytes:
    return b"\xff\xeb" + struct.pack(">H", 2 + len(IDENTIFIER) + len(data)) + IDENTIFIER + data


def _padding(missing: int) -> bytes:
    """Segments of zeros under our identifier; the last few bytes as fill bytes, which may precede any marker."""
    smallest = len(_ours(b""))
    parts = []
    while missing >= smallest:
        size = min(missing, _PAYLOAD + 4)
        parts.append(_ours(bytes(size - smallest)))
        missing -= size
    return b"".join(parts) + b"\xff" * missing
