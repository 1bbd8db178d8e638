"""The words of this package: formats, refusals, and what is known about one image file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

BLOCK = 4096  # bytes; the smallest a file can be made on the usual filesystems
RECORD_ROOM = 1024  # bytes of record that every accepted file has room for
METADATA_LIMIT = 1 << 20  # bytes of metadata in one file, as stored natively
BLOCKS_LIMIT = 7000  # pieces of metadata in one file; packed, each takes a few bytes more
Mode = Literal["L", "RGB"]


class Format(StrEnum):
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"


class Refusal(StrEnum):
    """Why an image stays resident; docs/formats.md explains each."""

    NO_PIXELS = "no pixels"
    TOO_SMALL = "too small"
    TOO_LARGE = "too large"
    UNSUPPORTED_FORMAT = "unsupported format"
    SEVERAL_PICTURES = "animated or several pictures"
    BIT_DEPTH = "not 8 bits per channel"
    COLOUR_MODEL = "colour model"
    TRANSPARENT = "transparent"
    CORRUPT = "truncated or corrupt"
    DATA_AFTER_END = "data after the end"
    METADATA_TOO_LARGE = "metadata too large"
    METADATA_UNREADABLE = "metadata cannot be kept"
    SIGNED = "signed content credentials"
    PLACEHOLDER = "placeholder already"
    GENERATED = "generated already"
    DOES_NOT_FIT = "does not fit its length"


class Kind(StrEnum):
    """What a file with an envelope is."""

    PLACEHOLDER = "placeholder"
    GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost; beyond a limit it is refused.

    `smallest_file` is the first length where a release gains a block.
    """

    pixels: int = 200_000_000
    file_size: int = 2 * 10**9  # bytes
    smallest_file: int = BLOCK + 1  # bytes


@dataclass(frozen=True, slots=True)
class Block:
    """One metadata container of a file, verbatim.

    `kind` is the marker (JPEG), chunk type (PNG, WebP) or tag and type (TIFF).
    """

    kind: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Metadata:
    """A file's own metadata, losslessly and in order, without embedded thumbnails.

    EXIF, XMP, ICC, IPTC, comments and the like.
    """

    format: Format
    blocks: tuple[Block, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def size(self) -> int:
        """Bytes of payload, as stored natively."""
        return sum(len(block.data) for block in self.blocks)

    def to_bytes(self) -> bytes:
        """Compressed with the shipped dictionary; the same metadata gives the same bytes. See `packing`."""
        from archiver.formats.packing import pack_metadata

        return pack_metadata(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Metadata:
        """The inverse of `to_bytes`; raises EnvelopeDamaged."""
        from archiver.formats.packing import unpack_metadata

        return unpack_metadata(data)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an acceptable image is. Sizes are as stored, before `orientation` (EXIF, 1..8) turns the picture upright."""

    format: Format
    width: int  # pixels
    height: int  # pixels
    orientation: int
    mode: Mode
    metadata: Metadata

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels as a viewer shows it."""
        return upright(self.width, self.height, self.orientation)


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the original file was.

    Enough to give a generated image its length and shape, and to know the original again.
    """

    format: Format
    length: int  # bytes
    sha256: bytes
    width: int  # pixels, as stored
    height: int
    orientation: int  # EXIF, 1..8
    mode: Mode
    mtime_ns: int
    inode: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels as a viewer shows it."""
        return upright(self.width, self.height, self.orientation)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What we write into a placeholder or a generated image. `stamp` (32 bits): of the latter, see stamp.py."""

    kind: Kind
    record: bytes
    source: SourceFacts
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """What a generated image says about itself in its XMP."""

    scheme: str
    profile: str
    source_sha256: bytes
    device: str
    version: str


@dataclass(frozen=True, slots=True)
class Structure:
    """What a container's headers say, before anything is decoded. Sizes in pixels, as stored."""

    width: int
    height: int
    mode: Mode
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of an encoder's ladder.

    `smooth` 1 leaves the picture as it is, n removes detail below n pixels, 0 leaves one colour.
    """

    quality: int
    smooth: int = 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded picture before the container is put around it; `data` is what the format's `write` takes apart."""

    data: bytes
    width: int
    height: int
    mode: Mode
    step: Step


def upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    """The size after the EXIF orientation is applied: 5 to 8 turn the picture on its side."""
    return (height, width) if orientation >= 5 else (width, height)
