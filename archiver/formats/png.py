"""PNG files (W3C PNG, third edition): chunks, metadata, our private chunk."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import envelope, ifd
from archiver.formats.facts import METADATA_LIMIT, Block, Encoded, Mode, Refusal, Step, Structure
from archiver.formats.scan import corrupt, exactly, file_length, refuse_data_after

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
OURS = b"arCv"  # ancillary, private, reserved bit as it must be, safe to copy
_XMP = b"XML:com.adobe.xmp\0"
_XMP_HEAD = _XMP + b"\0\0\0\0"  # not compressed, no language, no translated keyword
_MAX_CHUNKS = 200_000  # some writers cut the data into chunks of a few hundred bytes

# Chunks about the picture that survive new pixels, though PNG marks them unsafe to copy. Unknown chunks that are
# safe to copy are kept too.
_KEPT = {b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"mDCv", b"cLLi", b"sBIT", b"bKGD", b"tIME"}

# Fewer levels, then less detail, until deflate is small enough: in this order the squared error grows least (measured
# on enlarged photographs). A quality here is the bits left of each channel's 8.
LADDER = (
    Step(1, 0),
    *(Step(3, smooth) for smooth in (128, 64, 32, 16, 8, 4)),
    *(Step(4, smooth) for smooth in (4, 2)),
    *(Step(bits) for bits in (4, 5, 6, 7, 8)),
)
PREVIEW = Step(6)
PREVIEW_LONG_SIDE = 64  # pixels


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    at: int  # of the data
    size: int


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """Chunks from the first to IEND; the consumer may move the file's position."""
    length = file_length(file)
    file.seek(0)
    if exactly(file, 8) != SIGNATURE:
        raise corrupt("no PNG signature")
    at = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        size, kind = struct.unpack(">I4s", exactly(file, 8))
        if at + 12 + size > length or not kind.isalpha():
            raise corrupt(f"a chunk of {size} bytes at byte {at}")
        yield _Chunk(kind, at + 8, size)
        if kind == b"IEND":
            return
        at += 12 + size
    raise corrupt(f"more than {_MAX_CHUNKS} chunks")


def _data(file: BinaryIO, chunk: _Chunk) -> bytes:
    if chunk.size > METADATA_LIMIT:
        kind = chunk.kind.decode()
        raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail=f"a {kind} chunk of {chunk.size} bytes")
    file.seek(chunk.at)
    data = exactly(file, chunk.size)
    if zlib.crc32(chunk.kind + data) != struct.unpack(">I", exactly(file, 4))[0]:
        raise corrupt(f"the checksum of the {chunk.kind.decode()} chunk does not match")
    return data


def examine(file: BinaryIO) -> Structure:
    """Walk all chunks. Raises ImageRefused."""
    first: _Chunk | None = None
    blocks: list[Block] = []
    end = 0
    has_data = False
    for chunk in _chunks(file):
        if first is None:
            first = chunk
            width, height, mode = _header(file, chunk)
        elif chunk.kind == b"tRNS":
            raise ImageRefused(reason=Refusal.TRANSPARENT, detail="a transparent colour")
        has_data |= chunk.kind == b"IDAT"
        if block := _metadata_block(file, chunk):
            blocks.append(block)
        end = chunk.at + chunk.size + 4
    if not has_data:
        raise corrupt("no image data")
    refuse_data_after(file, end)
    return Structure(width, height, mode, blocks)


def _header(file: BinaryIO, chunk: _Chunk) -> tuple[int, int, Mode]:
    if chunk.kind == b"CgBI":
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail="PNG optimised for iPhone (CgBI)")
    if chunk.kind != b"IHDR" or chunk.size != 13:
        raise corrupt("no image header")
    width, height, depth, colour, _, _, _ = struct.unpack(">IIBBBBB", _data(file, chunk))
    if not width or not height:
        raise ImageRefused(reason=Refusal.NO_PIXELS, detail=f"{width}x{height} pixels")
    if colour == 3:
        raise ImageRefused(reason=Refusal.COLOUR_MODEL, detail="palette")
    if colour in (4, 6):
        raise ImageRefused(reason=Refusal.TRANSPARENT, detail="an alpha channel")
    if depth != 8:
        raise ImageRefused(reason=Refusal.BIT_DEPTH, detail=f"{depth} bits per channel")
    if colour not in (0, 2):
        raise corrupt(f"colour type {colour}")
    return width, height, "L" if colour == 0 else "RGB"


def blocks(file: BinaryIO) -> tuple[Block, ...]:
    """The metadata chunks. Raises ImageRefused."""
    found = (_metadata_block(file, chunk) for chunk in _chunks(file))
    return tuple(block for block in found if block)


def _metadata_block(file: BinaryIO, chunk: _Chunk) -> Block | None:
    """The chunk as it is kept, None if it describes the coding, a refusal if it announces more than a picture."""
    kind = chunk.kind
    if kind == b"acTL":
        raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="animated PNG")
    if kind == b"caBX":
        raise ImageRefused(reason=Refusal.SIGNED, detail="a C2PA manifest speaks for the original pixels")
    ancillary, safe_to_copy = kind[:1].islower(), kind[3:].islower()
    if not ancillary and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail=f"PNG with an unknown part {kind.decode()}")
    if kind == OURS or not ancillary or not (safe_to_copy or kind in _KEPT):
        return None
    data = _data(file, chunk)
    return Block(kind, ifd.without_thumbnail(data) if kind == b"eXIf" else data)


def exif_of(blocks: Sequence[Block]) -> bytes | None:
    """The EXIF block, from its TIFF header on."""
    return next((block.data for block in blocks if block.kind == b"eXIf"), None)


def icc_of(blocks: Sequence[Block]) -> bytes | None:
    """The colour profile, inflated; None where it is damaged or absurdly large."""
    packed = next((block.data for block in blocks if block.kind == b"iCCP"), None)
    if packed is None:
        return None
    _, _, rest = packed.partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], METADATA_LIMIT)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def xmp_of(blocks: Sequence[Block]) -> list[bytes]:
    """The XMP packets. Raises ImageRefused where one is compressed beyond reason."""
    return [_xmp_text(block.data) for block in blocks if _is_xmp(block)]


def _is_xmp(block: Block) -> bool:
    return block.kind == b"iTXt" and block.data.startswith(_XMP)


def _xmp_text(data: bytes) -> bytes:
    """The text of an iTXt chunk: flags, language and translated keyword come before it."""
    unreadable = ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail="its XMP chunk")
    compressed = data[len(_XMP) : len(_XMP) + 1]
    parts = data[len(_XMP) + 2 :].split(b"\0", 2)
    if len(parts) != 3 or compressed not in (b"\0", b"\1"):
        raise unreadable
    if compressed == b"\0":
        return parts[2]
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(parts[2], METADATA_LIMIT)
    except zlib.error as error:
        raise unreadable from error
    if not inflater.eof:
        raise unreadable
    return text


def with_xmp(blocks: Sequence[Block], packets: Sequence[bytes]) -> tuple[Block, ...]:
    """The blocks with these packets in the places of theirs; a first packet goes to the end."""
    packets = list(packets)
    kept: list[Block] = []
    for block in blocks:
        if not _is_xmp(block):
            kept.append(block)
        elif packets:
            kept.append(Block(b"iTXt", _XMP_HEAD + packets.pop(0)))
    return (*kept, *(Block(b"iTXt", _XMP_HEAD + packet) for packet in packets))


def find_sealed(file: BinaryIO) -> bytes | None:
    """The envelope's bytes, if any; it stands before the picture.

    Raises ImageRefused on a broken file, EnvelopeDamaged.
    """
    file.seek(0)
    if exactly(file, 8) != SIGNATURE:
        return None
    at = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        size, kind = struct.unpack(">I4s", exactly(file, 8))
        if kind == OURS:
            wanted = envelope.sealed_length(head := exactly(file, min(size, envelope.HEAD_BYTES)))
            return None if wanted is None else head + file.read(max(0, min(size, wanted) - len(head)))
        if kind in (b"IDAT", b"IEND"):
            return None
        at += 12 + size
    return None


def ours(file: BinaryIO) -> list[tuple[int, int]]:
    """Where our chunk's data begins and its checksum ends. Raises ImageRefused on a broken file."""
    return [(chunk.at, chunk.at + chunk.size + 4) for chunk in _chunks(file) if chunk.kind == OURS]


def encode(image: Image.Image, step: Step) -> Encoded:
    """A PNG with `step.quality` bits per channel left of the 8."""
    dropped = 8 - step.quality
    if dropped:
        half = (1 << dropped) >> 1
        levels = [(value >> dropped << dropped) + half for value in range(256)]
        image = image.point(levels * len(image.getbands()))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    mode: Mode = "L" if image.mode == "L" else "RGB"
    return Encoded(buffer.getvalue(), image.width, image.height, mode, step)


def encode_array(picture: NDArray[np.uint8], step: Step) -> Encoded:
    """As `encode`."""
    return encode(Image.fromarray(picture), step)


def write(picture: Encoded, blocks: Sequence[Block], sealed: bytes, length: int | None = None) -> bytes:
    """The file: header, metadata, envelope, picture; padded to `length` inside our chunk.

    Raises ValueError if it is longer.
    """
    file = io.BytesIO(picture.data)
    parts = [(chunk.kind, picture.data[chunk.at : chunk.at + chunk.size]) for chunk in _chunks(file)]
    head = SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts if kind == b"IHDR")
    head += b"".join(_chunk(block.kind, block.data) for block in blocks)
    body = b"".join(_chunk(kind, data) for kind, data in parts if kind in (b"IDAT", b"IEND"))
    missing = 0 if length is None else length - len(head) - len(_chunk(OURS, sealed)) - len(body)
    if missing < 0:
        raise ValueError(f"{-missing} bytes too long")
    return head + _chunk(OURS, sealed + bytes(missing)) + body


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
