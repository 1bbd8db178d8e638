"""TIFF directories: the common ground of TIFF files and of EXIF blocks (TIFF 6.0, section 2).

Everything is read through a seekable file and bounded: a directory that points outside of it, or asks for absurd
amounts, raises IfdInvalid.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

Order = Literal["<", ">"]
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SHORT, LONG = 3, 4

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
POINTERS = frozenset({EXIF_IFD, GPS_IFD, INTEROP_IFD})
_THUMBNAIL, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_STRIPS, _STRIP_LENGTHS = 0x0111, 0x0117

_MAX_FIELDS = 4096
_MAX_BYTES = 32 << 20  # read in all; strip tables of the largest pictures stay far below
_MAX_DIRECTORIES = 16
_MAX_DEPTH = 3


class IfdInvalid(ValueError):
    """A TIFF directory that cannot be read."""


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a directory; `at` is where its value starts in the file."""

    tag: int
    type: int
    count: int
    at: int

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return TYPE_SIZES[self.type] * self.count


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory as it lies in the file: its fields, where its link to the next directory lies, and that link."""

    at: int
    fields: tuple[Field, ...]
    link_at: int
    next: int

    def get(self, tag: int) -> Field | None:
        return next((field for field in self.fields if field.tag == tag), None)


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory taken out of its file: values in the file's byte order, directories below it as trees."""

    fields: tuple[tuple[int, int, bytes | Tree], ...]  # tag, type, value


class IfdReader:
    """Reads directories from a binary file that starts with a TIFF header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._bytes_left = _MAX_BYTES
        self._directories_left = _MAX_DIRECTORIES
        self.size = file.seek(0, io.SEEK_END)
        head = self.bytes_at(0, 8)
        if head[:4] not in (b"II*\0", b"MM\0*"):
            raise IfdInvalid("no TIFF header")
        self.order: Order = "<" if head[:2] == b"II" else ">"
        (self.first,) = struct.unpack(self.order + "I", head[4:])

    @classmethod
    def of(cls, data: bytes) -> IfdReader:
        return cls(io.BytesIO(data))

    def bytes_at(self, at: int, size: int) -> bytes:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise IfdInvalid(f"more than {_MAX_BYTES} bytes of values")
        self._file.seek(at)
        data = self._file.read(size)
        if len(data) != size:
            raise IfdInvalid(f"bytes {at} to {at + size} lie behind the end")
        return data

    def directory(self, at: int) -> Directory:
        """The directory at byte `at`; fields of unknown type are an error, for their length is unknown."""
        self._directories_left -= 1
        if self._directories_left < 0:
            raise IfdInvalid(f"more than {_MAX_DIRECTORIES} directories")
        (count,) = struct.unpack(self.order + "H", self.bytes_at(at, 2))
        if not 0 < count <= _MAX_FIELDS:
            raise IfdInvalid(f"a directory of {count} fields")
        table = self.bytes_at(at + 2, 12 * count)
        fields = []
        for index in range(count):
            tag, kind, number, value = struct.unpack_from(self.order + "HHII", table, 12 * index)
            if kind not in TYPE_SIZES:
                raise IfdInvalid(f"tag {tag} has type {kind}")
            inline = TYPE_SIZES[kind] * number <= 4
            field = Field(tag, kind, number, at + 2 + 12 * index + 8 if inline else value)
            if not inline and field.at + field.size > self.size:
                raise IfdInvalid(f"tag {tag} lies behind the end")
            fields.append(field)
        link_at = at + 2 + 12 * count
        link = self.bytes_at(link_at, 4) if link_at + 4 <= self.size else b"\0\0\0\0"
        return Directory(at, tuple(fields), link_at, struct.unpack(self.order + "I", link)[0])

    def value(self, field: Field) -> bytes:
        return self.bytes_at(field.at, field.size)

    def integers(self, field: Field) -> tuple[int, ...]:
        """The values of a BYTE, SHORT or LONG field."""
        code = {1: "B", 7: "B", 3: "H", 4: "I", 13: "I"}.get(field.type)
        if code is None:
            raise IfdInvalid(f"tag {field.tag} is not an integer")
        return struct.unpack(f"{self.order}{field.count}{code}", self.value(field))

    def first_of(self, field: Field) -> int:
        """The first value of an integer field; one may have none, whatever its tag is for."""
        values = self.integers(field)
        if not values:
            raise IfdInvalid(f"tag {field.tag} is empty")
        return values[0]

    def integer(self, directory: Directory, tag: int, default: int) -> int:
        """The first value of an integer field, or the default where the tag is missing."""
        field = directory.get(tag)
        return default if field is None else self.first_of(field)

    def tree(self, at: int, depth: int = 0) -> Tree:
        """The directory at `at` with the EXIF, GPS and interoperability directories below it."""
        if depth > _MAX_DEPTH:
            raise IfdInvalid("directories nested too deep")
        fields: list[tuple[int, int, bytes | Tree]] = []
        for field in self.directory(at).fields:
            if field.tag in POINTERS:
                fields.append((field.tag, LONG, self.tree(self.first_of(field), depth + 1)))
            else:
                fields.append((field.tag, field.type, self.value(field)))
        return Tree(tuple(fields))


def header(order: Order, first: int) -> bytes:
    """The 8 bytes a TIFF file starts with; `first` is where its first directory lies."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", first)


def serialise(tree: Tree, order: Order, at: int) -> bytes:
    """The tree as it must lie at byte `at` (even) of a file.

    Directory, then values and directories below, all at even offsets.
    """
    table = struct.pack(order + "H", len(tree.fields))
    behind = bytearray()
    start = at + 2 + 12 * len(tree.fields) + 4
    for tag, kind, content in tree.fields:
        if isinstance(content, Tree):
            below = serialise(content, order, start + len(behind))
            table += struct.pack(order + "HHII", tag, LONG, 1, start + len(behind))
        else:
            table += struct.pack(order + "HHI", tag, kind, len(content) // TYPE_SIZES[kind])
            below = b"" if len(content) <= 4 else content
            table += content.ljust(4, b"\0") if not below else struct.pack(order + "I", start + len(behind))
        behind += below + b"\0" * (len(below) % 2)
    return table + b"\0\0\0\0" + bytes(behind)


def orientation(exif: bytes) -> int:
    """The orientation (1..8) an EXIF block states; 1 where it states none that is valid."""
    try:
        reader = IfdReader.of(exif)
        stated = reader.integer(reader.directory(reader.first), ORIENTATION, 1)
    except IfdInvalid:
        return 1
    return stated if 1 <= stated <= 8 else 1


def without_thumbnail(exif: bytes) -> bytes:
    """The EXIF block without its thumbnail directory; nothing else moves, as maker notes hold offsets.

    What lay behind everything else is cut off, what lay in between becomes zeros. A block that cannot be read is
    returned as it is.
    """
    try:
        reader = IfdReader.of(exif)
        main = reader.directory(reader.first)
        if not main.next:
            return exif
        doomed = _extent(reader, reader.directory(main.next), thumbnail=True)
        kept = [(0, 8), *_extent(reader, main)]
    except IfdInvalid:
        return exif
    fate = bytearray(len(exif))
    for start, end in doomed:
        fate[start:end] = b"\1" * len(fate[start:end])
    for start, end in kept:
        fate[start:end] = bytes(len(fate[start:end]))
    data = bytearray(exif)
    data[main.link_at : main.link_at + 4] = bytes(4)
    end = fate.rfind(b"\0") + 1
    return bytes(0 if doomed_byte else byte for byte, doomed_byte in zip(data[:end], fate[:end], strict=True))


def extent_end(reader: IfdReader, directory: Directory) -> int:
    """Where the last byte that the directory, its values and the directories below it take up ends."""
    return max(end for _, end in _extent(reader, directory))


def _extent(
    reader: IfdReader, directory: Directory, *, thumbnail: bool = False, depth: int = 0
) -> list[tuple[int, int]]:
    """The byte ranges that a directory, its values and the directories below it take up."""
    if depth > _MAX_DEPTH:
        raise IfdInvalid("directories nested too deep")
    ranges = [(directory.at, directory.link_at + 4)]
    for field in directory.fields:
        if field.size > 4:
            ranges.append((field.at, field.at + field.size))
        if field.tag in POINTERS:
            below = reader.directory(reader.first_of(field))
            ranges += _extent(reader, below, depth=depth + 1)
    if thumbnail:
        for start_tag, length_tag in ((_THUMBNAIL, _THUMBNAIL_LENGTH), (_STRIPS, _STRIP_LENGTHS)):
            start, length = directory.get(start_tag), directory.get(length_tag)
            if start and length:
                pairs: Sequence[tuple[int, int]] = list(
                    zip(reader.integers(start), reader.integers(length), strict=False)
                )
                ranges += [(at, at + size) for at, size in pairs]
    return ranges
