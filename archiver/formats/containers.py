"""What every format module offers, and which module serves which format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Protocol

from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import jpeg, png, tiff, webp
from archiver.formats.envelope import Sealed, unseal
from archiver.formats.facts import BLOCK, Block, Encoded, Format, Step, Structure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Container(Protocol):
    """A module that reads and writes one format; see `jpeg` for what each function promises."""

    @property
    def LADDER(self) -> tuple[Step, ...]: ...
    @property
    def PREVIEW(self) -> Step: ...
    @property
    def PREVIEW_LONG_SIDE(self) -> int: ...

    def examine(self, file: BinaryIO) -> Structure: ...
    def blocks(self, file: BinaryIO) -> tuple[Block, ...]: ...
    def exif_of(self, blocks: Sequence[Block]) -> bytes | None: ...
    def icc_of(self, blocks: Sequence[Block]) -> bytes | None: ...
    def xmp_of(self, blocks: Sequence[Block]) -> list[bytes]: ...
    def with_xmp(self, blocks: Sequence[Block], packets: Sequence[bytes]) -> tuple[Block, ...]: ...
    def find_sealed(self, file: BinaryIO) -> bytes | None: ...
    def ours(self, file: BinaryIO) -> list[tuple[int, int]]: ...
    def encode(self, image: Image.Image, step: Step) -> Encoded: ...
    def encode_array(self, picture: NDArray[np.uint8], step: Step) -> Encoded: ...
    def write(self, picture: Encoded, blocks: Sequence[Block], sealed: bytes, length: int | None = None) -> bytes: ...


_CONTAINERS: dict[Format, Container] = {Format.JPEG: jpeg, Format.PNG: png, Format.WEBP: webp, Format.TIFF: tiff}


def container_of(fmt: Format) -> Container:
    """The module that serves this format."""
    return _CONTAINERS[fmt]


def sniff(head: bytes) -> Format | None:
    """Which of the supported formats starts with these bytes (12 are enough); extensions are never looked at."""
    if head.startswith(jpeg.SIGNATURE):
        return Format.JPEG
    if head.startswith(png.SIGNATURE):
        return Format.PNG
    if webp.is_webp(head):
        return Format.WEBP
    return Format.TIFF if head[:4] in tiff.SIGNATURES else None


def sealed_in(file: BinaryIO) -> tuple[Format, Sealed] | None:
    """Our envelope in a file, None if it carries none. Raises EnvelopeDamaged, RecordVersionUnknown."""
    file.seek(0)
    fmt = sniff(file.read(12))
    if fmt is None:
        return None
    try:
        data = container_of(fmt).find_sealed(file)
    except ImageRefused:  # a broken container that shows no envelope before it breaks is not one of ours
        return None
    return None if not data else (fmt, unseal(data))


__all__ = ["BLOCK", "Container", "container_of", "sealed_in", "sniff"]
