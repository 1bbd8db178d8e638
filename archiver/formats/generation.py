"""The generated image as a file: the source's shape, metadata and exact length, labelled for what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import pixels, xmp
from archiver.formats.containers import Container, container_of
from archiver.formats.envelope import Storage, seal
from archiver.formats.facts import Block, Encoded, Envelope, Kind, Label, Metadata, Refusal

_TILES = 6  # a side of the sample
_TILE = 128  # pixels a side
_CLOSE = 0.98  # of the length: no better rung is looked for


def encode_exact(pixels_upright: NDArray[np.uint8], envelope: Envelope, metadata: Metadata, label: Label) -> bytes:
    """A file of exactly `envelope.source.length` bytes that shows the picture at the best quality that fits.

    `pixels_upright` is uint8 (h, w, 3), sRGB, at any size; it is brought to the source's dimensions, orientation,
    mode and colour profile. The same arguments give the same bytes. Raises ImageRefused(DOES_NOT_FIT) if not even one
    flat colour fits; `inspect` refuses such files.
    """
    facts = envelope.source
    container = container_of(facts.format)
    image = pixels.enlarged(pixels_upright, facts.upright_size)
    image = pixels.from_srgb(image, container.icc_of(metadata.blocks), facts.mode)
    image = pixels.to_stored(image, facts.orientation)

    packets = container.xmp_of(metadata.blocks)
    blocks = container.with_xmp(metadata.blocks, [xmp.with_label(packet, label) for packet in packets or (None,)])
    sealed = seal(replace(envelope, kind=Kind.GENERATED), *_originals(metadata, packets))

    def size(encoded: Encoded) -> int:
        return len(container.write(encoded, blocks, sealed))

    best = _best_fit(image, container, size, facts.length)
    if best is None:
        raise ImageRefused(
            reason=Refusal.DOES_NOT_FIT,
            detail=f"{facts.width}x{facts.height} pixels and their metadata in {facts.length} bytes",
        )
    return container.write(best, blocks, sealed, facts.length)


def _originals(metadata: Metadata, packets: list[bytes]) -> tuple[Storage, bytes]:
    """The XMP packets as they were before the label: with them the generated file alone tells the original metadata."""
    if not packets:
        return Storage.NATIVE, b""
    return Storage.INSIDE, Metadata(metadata.format, tuple(Block(b"xmp", packet) for packet in packets)).to_bytes()


def _best_fit(image: Image.Image, container: Container, size: Callable[[Encoded], int], length: int) -> Encoded | None:
    """The highest rung of the ladder whose file has at most `length` bytes; sizes grow with the rungs.

    A sample tells which rung to try; how it erred tells the next. Large pictures so take two or three encodings.
    """
    sample = _sample(image)

    @cache
    def sampled(rung: int) -> int:
        step = container.LADDER[rung]
        return len(container.encode(pixels.smoothed(sample, step.smooth), step).data)

    scale = image.width * image.height / (sample.width * sample.height)
    low, high = -1, len(container.LADDER)  # low fits, high does not
    best: Encoded | None = None
    while high - low > 1:
        rung = _highest(low, high, sampled, length / scale)
        step = container.LADDER[rung]
        encoded = container.encode(pixels.smoothed(image, step.smooth), step)
        reached = size(encoded)
        scale = reached / sampled(rung)
        if reached > length:
            high = rung
        else:
            low, best = rung, encoded
            if reached > _CLOSE * length:
                break
    return best


def _highest(low: int, high: int, size: Callable[[int], int], room: float) -> int:
    """The highest rung strictly between low and high whose size is within room; the lowest of them if none is."""
    floor = low + 1
    while high - low > 1:
        middle = (low + high) // 2
        if size(middle) <= room:
            low = middle
        else:
            high = middle
    return max(low, floor)


def _sample(image: Image.Image) -> Image.Image:
    """A mosaic of tiles from all over a large picture; a small one itself."""
    side = _TILES * _TILE
    if image.width * image.height <= 2 * side * side or min(image.size) < _TILE:
        return image
    sample = Image.new(image.mode, (side, side))
    for row in range(_TILES):
        for column in range(_TILES):
            left, top = (
                (full - _TILE) * at // (_TILES - 1) for full, at in zip(image.size, (column, row), strict=True)
            )
            sample.paste(image.crop((left, top, left + _TILE, top + _TILE)), (column * _TILE, row * _TILE))
    return sample
