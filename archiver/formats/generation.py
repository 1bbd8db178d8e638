"""The generated image as a file: the source's shape, metadata and exact length, labelled for what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from math import ceil, log

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import pixels, xmp
from archiver.formats.containers import Container, container_of
from archiver.formats.envelope import Storage, seal
from archiver.formats.facts import Block, Encoded, Envelope, Format, Kind, Label, Metadata, Refusal, SourceFacts, Step
from archiver.formats.stamp import stamp_of

_TILES = 3  # a side of the sample; few, so that trying a rung on them costs next to nothing
_TILE = 64  # pixels a side; whole blocks of every codec
_CLOSE = 0.85  # of the length: no better rung is looked for
_AIM = 0.95  # of the length: a sample errs by as much
_NEARLY = 0.93  # of the room that a sample may take: what fills it so well needs no better rung
_GROWTH = 0.07  # of a file's logarithm from one quality to the next, near the top
_ENLARGED = 2  # times as long and wide, or more: between the pixels of the picture there is nothing to show
# What is enough, room or not, to show all of a picture that a network made; others: the best there is, which is
# lossless. One that is enlarged has colour samples to spare: JPEG at 89 keeps a quarter of them, and has 43 dB at three
# times the size, where 92 with all of them has 47 and takes twice the time.
_ENOUGH = {Format.JPEG: Step(92), Format.WEBP: Step(95)}
_ENOUGH_ENLARGED = {Format.JPEG: Step(89), Format.WEBP: Step(90)}


def encode_exact(pixels_upright: NDArray[np.uint8], envelope: Envelope, metadata: Metadata, label: Label) -> bytes:
    """A file of exactly `envelope.source.length` bytes that shows the picture as well as fits and can be seen.

    `pixels_upright` is uint8 (h, w, 3), sRGB, at any size; it is brought to the source's dimensions, orientation,
    mode and colour profile. A reader waits for it: a picture gets no quality that nobody could see, and where it nearly
    fills its file no better one is looked for; padding fills the rest. The same arguments give the same bytes on one
    machine. Raises ImageRefused(DOES_NOT_FIT) if not even one flat colour fits; `survey` refuses such files.
    """
    facts = envelope.source
    container = container_of(facts.format)
    # Colours and orientation first: the picture has fewer pixels now than it will have.
    image = pixels.from_srgb(pixels.from_array(pixels_upright), container.icc_of(metadata.blocks), facts.mode)
    image = pixels.to_stored(image, facts.orientation)
    enough = _enough(container, image, facts)
    picture = pixels.enlarged(pixels.array(image), (facts.width, facts.height))

    packets = container.xmp_of(metadata.blocks)
    blocks = container.with_xmp(metadata.blocks, [xmp.with_label(packet, label) for packet in packets or (None,)])
    sealed = seal(replace(envelope, kind=Kind.GENERATED), *_originals(metadata, packets))

    def size(encoded: Encoded) -> int:
        return len(container.write(encoded, blocks, sealed))

    best = _best_fit(picture, container, size, facts.length, enough)
    if best is None:
        raise ImageRefused(
            reason=Refusal.DOES_NOT_FIT,
            detail=f"{facts.width}x{facts.height} pixels and their metadata in {facts.length} bytes",
        )
    unstamped = container.write(best, blocks, sealed, facts.length)
    stamp = stamp_of(BytesIO(unstamped), facts.format)
    sealed = seal(replace(envelope, kind=Kind.GENERATED, stamp=stamp), *_originals(metadata, packets))
    return container.write(best, blocks, sealed, facts.length)


def _enough(container: Container, image: Image.Image, facts: SourceFacts) -> int:
    """The rung beyond which a picture that is brought to the source's size shows no more."""
    enlarged = facts.width >= _ENLARGED * image.width and facts.height >= _ENLARGED * image.height
    steps = _ENOUGH_ENLARGED if enlarged else _ENOUGH
    return container.LADDER.index(steps.get(facts.format, container.LADDER[-1]))


def _originals(metadata: Metadata, packets: list[bytes]) -> tuple[Storage, bytes]:
    """The XMP packets as they were before the label: with them the generated file alone tells the original metadata."""
    if not packets:
        return Storage.NATIVE, b""
    return Storage.INSIDE, Metadata(metadata.format, tuple(Block(b"xmp", packet) for packet in packets)).to_bytes()


def _best_fit(
    picture: NDArray[np.uint8], container: Container, size: Callable[[Encoded], int], length: int, enough: int
) -> Encoded | None:
    """A rung of the ladder whose file has at most `length` bytes, the highest or close to it; sizes grow by the rung.

    `enough`: the highest that is of use. A sample tells which rung to try; how it erred tells the next.
    """
    sample = _sample(picture)

    @cache
    def sampled(rung: int) -> int:
        step = container.LADDER[rung]
        return len(container.encode_array(pixels.smoothed(sample, step.smooth), step).data)

    scale = _area(picture) / _area(sample)
    low, high = -1, enough + 1  # low fits, high does not or is not wanted
    best: Encoded | None = None
    while high - low > 1:
        rung = _highest(low, high, sampled, _AIM * length / scale)
        if rung == low and best is not None:
            break
        rung = max(rung, 0)  # by the sample nothing fits: the lowest has to be tried
        step = container.LADDER[rung]
        encoded = container.encode_array(pixels.smoothed(picture, step.smooth), step)
        reached = size(encoded)
        if reached > length:
            high = rung
        else:
            low, best = rung, encoded
            if reached > _CLOSE * length:
                break
        if high - low > 1:
            scale = reached / sampled(rung)
    return best


def _highest(low: int, high: int, size: Callable[[int], int], room: float) -> int:
    """The highest rung strictly between low and high whose size is within room, or one that fills it nearly as well;
    low if none is.
    """
    rung = high - 1
    while high - low > 1:
        filled = size(rung) / room
        if filled > 1:
            high = rung
            rung = max(low + 1, rung - ceil(log(filled) / _GROWTH))
        else:
            low = rung
            if filled > _NEARLY:
                break
            rung = (low + high) // 2
    return low


def _sample(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mosaic of tiles from all over a large picture; a small one itself."""
    height, width = picture.shape[:2]
    if _area(picture) <= 2 * (_TILES * _TILE) ** 2 or min(height, width) < _TILE:
        return picture
    tops, lefts = ([(full - _TILE) * at // (_TILES - 1) for at in range(_TILES)] for full in (height, width))
    rows = [np.concatenate([picture[top : top + _TILE, left : left + _TILE] for left in lefts], 1) for top in tops]
    return np.concatenate(rows)


def _area(picture: NDArray[np.uint8]) -> int:
    """In pixels."""
    height, width = picture.shape[:2]
    return int(height * width)
