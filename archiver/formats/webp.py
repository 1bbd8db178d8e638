"""WebP files (RFC 9649): RIFF chunks, metadata, our own chunk."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import envelope, ifd
from archiver.formats.facts import METADATA_LIMIT, Block, Encoded, Refusal, Step, Structure
from archiver.formats.scan import corrupt, exactly, file_length, refuse_data_after

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OURS = b"ARCV"
_XMP = b"XMP "
_MAX_CHUNKS = 10_000
_ZERO_TAIL = 128  # bytes
_ICC_FLAG, _ALPHA_FLAG, _EXIF_FLAG, _XMP_FLAG, _ANIMATION_FLAG = 0x20, 0x10, 0x08, 0x04, 0x02
_CODING = (b"VP8 ", b"VP8L", b"VP8X", OURS)

LADDER = (
    *(Step(0, smooth) for smooth in (0, 64, 32, 16, 8, 4, 2)),
    *(Step(quality) for quality in range(101)),
)
PREVIEW = Step(50)
PREVIEW_LONG_SIDE = 256  # pixels


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    at: int  # of the data
    size: int


def is_webp(head: bytes) -> bool:
    """Whether these first 12 bytes are those of a WebP file."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _riff_end(file: BinaryIO) -> int:
    file.seek(0)
    head = exactly(file, 12)
    if not is_webp(head):
        raise corrupt("no WebP header")
    return 8 + int(struct.unpack_from("<I", head, 4)[0])


def _chunks(file: BinaryIO, end: int) -> Iterator[_Chunk]:
    """Chunks up to byte `end`; the consumer may move the file's position."""
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        file.seek(at)
        kind, size = struct.unpack("<4sI", exactly(file, 8))
        if at + 8 + size > end:
            raise corrupt(f"a chunk of {size} bytes at byte {at}")
        yield _Chunk(kind, at + 8, size)
        at += 8 + size + size % 2
    raise corrupt(f"more than {_MAX_CHUNKS} chunks")


def examine(file: BinaryIO) -> Structure:
    """Walk all chunks. Raises ImageRefused."""
    end, length = _riff_end(file), file_length(file)
    if end > length:
        raise corrupt(f"{length} of {end} bytes are left")
    size: tuple[int, int] | None = None
    blocks: list[Block] = []
    for chunk in _chunks(file, end):
        if chunk.kind == b"VP8X":
            _refuse_by_flags(file, chunk)
        elif chunk.kind == b"ALPH":
            raise ImageRefused(reason=Refusal.TRANSPARENT, detail="an alpha channel")
        elif chunk.kind in (b"ANIM", b"ANMF"):
            raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="animated WebP")
        elif chunk.kind in (b"VP8 ", b"VP8L"):
            if size is not None:
                raise corrupt("two pictures")
            size = _lossy_size(file, chunk) if chunk.kind == b"VP8 " else _lossless_size(file, chunk)
            _refuse_zero_tail(file, chunk)
        elif block := _metadata_block(file, chunk):
            blocks.append(block)
    if size is None:
        raise corrupt("no image data")
    refuse_data_after(file, end)
    return Structure(*size, "RGB", _in_order(blocks))


def _refuse_by_flags(file: BinaryIO, chunk: _Chunk) -> None:
    file.seek(chunk.at)
    flags = exactly(file, 1)[0]
    if flags & _ANIMATION_FLAG:
        raise ImageRefused(reason=Refusal.SEVERAL_PICTURES, detail="animated WebP")
    if flags & _ALPHA_FLAG:
        raise ImageRefused(reason=Refusal.TRANSPARENT, detail="an alpha channel")


def _lossy_size(file: BinaryIO, chunk: _Chunk) -> tuple[int, int]:
    file.seek(chunk.at)
    head = exactly(file, 10)
    if head[3:6] != b"\x9d\x01\x2a":
        raise corrupt("no VP8 key frame")
    width, height = struct.unpack_from("<HH", head, 6)
    return _checked(width & 0x3FFF, height & 0x3FFF)


def _lossless_size(file: BinaryIO, chunk: _Chunk) -> tuple[int, int]:
    file.seek(chunk.at)
    head = exactly(file, 5)
    if head[0] != 0x2F:
        raise corrupt("no VP8L signature")
    (bits,) = struct.unpack_from("<I", head, 1)
    if bits >> 28 & 1:
        raise ImageRefused(reason=Refusal.TRANSPARENT, detail="an alpha channel")
    return _checked((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)


def _refuse_zero_tail(file: BinaryIO, chunk: _Chunk) -> None:
    """A copy that broke off and left zeros still decodes, to half a picture; no coder writes such a tail."""
    size = min(chunk.size, _ZERO_TAIL)
    file.seek(chunk.at + chunk.size - size)
    if not exactly(file, size).strip(b"\0"):
        raise corrupt("its image data ends in zeros")


def _checked(width: int, height: int) -> tuple[int, int]:
    if not width or not height:
        raise ImageRefused(reason=Refusal.NO_PIXELS, detail=f"{width}x{height} pixels")
    return width, height


def blocks(file: BinaryIO) -> tuple[Block, ...]:
    """The metadata chunks, the colour profile first. Raises ImageRefused."""
    found = (_metadata_block(file, chunk) for chunk in _chunks(file, min(_riff_end(file), file_length(file))))
    return _in_order([block for block in found if block])


def _in_order(blocks: Sequence[Block]) -> tuple[Block, ...]:
    return tuple(sorted(blocks, key=lambda block: block.kind != b"ICCP"))


def _metadata_block(file: BinaryIO, chunk: _Chunk) -> Block | None:
    if chunk.kind in _CODING:
        return None
    if chunk.kind == b"C2PA":
        raise ImageRefused(reason=Refusal.SIGNED, detail="a C2PA manifest speaks for the original pixels")
    if chunk.size > METADATA_LIMIT:
        raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail=f"a chunk of {chunk.size} bytes")
    file.seek(chunk.at)
    data = exactly(file, chunk.size)
    return Block(chunk.kind, ifd.without_thumbnail(data) if chunk.kind == b"EXIF" else data)


def exif_of(blocks: Sequence[Block]) -> bytes | None:
    """The EXIF block, from its TIFF header on; some writers put JPEG's prefix before it."""
    data = next((block.data for block in blocks if block.kind == b"EXIF"), None)
    return data.removeprefix(b"Exif\0\0") if data is not None else None


def icc_of(blocks: Sequence[Block]) -> bytes | None:
    """The colour profile."""
    return next((block.data for block in blocks if block.kind == b"ICCP"), None)


def xmp_of(blocks: Sequence[Block]) -> list[bytes]:
    """The XMP packets."""
    return [block.data for block in blocks if block.kind == _XMP]


def with_xmp(blocks: Sequence[Block], packets: Sequence[bytes]) -> tuple[Block, ...]:
    """The blocks with these packets in the places of theirs; a first packet goes to the end."""
    packets = list(packets)
    kept: list[Block] = []
    for block in blocks:
        if block.kind != _XMP:
            kept.append(block)
        elif packets:
            kept.append(Block(_XMP, packets.pop(0)))
    return (*kept, *(Block(_XMP, packet) for packet in packets))


def find_sealed(file: BinaryIO) -> bytes | None:
    """The envelope's bytes, if any. Raises ImageRefused on a broken file, EnvelopeDamaged on a broken envelope."""
    for chunk in _chunks(file, _riff_end(file)):
        if chunk.kind == OURS:
            file.seek(chunk.at)
            wanted = envelope.sealed_length(head := exactly(file, min(chunk.size, envelope.HEAD_BYTES)))
            return None if wanted is None else head + file.read(max(0, min(chunk.size, wanted) - len(head)))
        if chunk.kind in (b"VP8 ", b"VP8L"):
            return None
    return None


def ours(file: BinaryIO) -> list[tuple[int, int]]:
    """Where our chunk's data begins and ends. Raises ImageRefused on a broken file."""
    return [(chunk.at, chunk.at + chunk.size) for chunk in _chunks(file, _riff_end(file)) if chunk.kind == OURS]


def encode(image: Image.Image, step: Step) -> Encoded:
    """A lossy WebP."""
    buffer = io.BytesIO()
    image = image if image.mode == "RGB" else image.convert("RGB")  # not copied for nothing
    image.save(buffer, "WEBP", quality=step.quality, method=3)
    return Encoded(buffer.getvalue(), image.width, image.height, "RGB", step)


def encode_array(picture: NDArray[np.uint8], step: Step) -> Encoded:
    """As `encode`."""
    return encode(Image.fromarray(picture), step)


def write(picture: Encoded, blocks: Sequence[Block], sealed: bytes, length: int | None = None) -> bytes:
    """The file: profile, envelope, picture, metadata.

    Padded to `length` bytes inside our chunk, with a last odd byte behind the end, as RIFF sizes are even. Raises
    ValueError if it is longer than `length`.
    """
    file = io.BytesIO(picture.data)
    coded = b"".join(
        _chunk(chunk.kind, picture.data[chunk.at : chunk.at + chunk.size])
        for chunk in _chunks(file, len(picture.data))
        if chunk.kind in (b"VP8 ", b"VP8L")
    )
    flags = 0
    for kind, flag in ((b"ICCP", _ICC_FLAG), (b"EXIF", _EXIF_FLAG), (_XMP, _XMP_FLAG)):
        flags |= flag if any(block.kind == kind for block in blocks) else 0
    size = struct.pack("<I", picture.width - 1)[:3] + struct.pack("<I", picture.height - 1)[:3]
    head = b"WEBP" + _chunk(b"VP8X", struct.pack("<I", flags) + size)
    head += b"".join(_chunk(block.kind, block.data) for block in blocks if block.kind == b"ICCP")
    tail = coded + b"".join(_chunk(block.kind, block.data) for block in blocks if block.kind != b"ICCP")
    sealed += b"\0" * (len(sealed) % 2)
    missing = 0 if length is None else length - 8 - len(head) - 8 - len(sealed) - len(tail)
    if missing < 0:
        raise ValueError(f"{-missing} bytes too long")
    riff = head + _chunk(OURS, sealed + bytes(missing - missing % 2)) + tail
    return b"RIFF" + struct.pack("<I", len(riff)) + riff + bytes(missing % 2)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
