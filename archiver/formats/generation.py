"""The generated image as a file: the source's shape, metadata and exact length, labelled for what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import pixels, xmp
from archiver.formats.containers import Container, container_of
from archiver.formats.envelope import Storage, seal
from archiver.formats.facts import Block, Encoded, Envelope, Kind, Label, Metadata, Refusal, Step

_SAMPLE = 8  # tiles a side
_TILE = 64  # pixels


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

    def encode(step: Step) -> Encoded:
        return container.encode(pixels.smoothed(image, step.smooth), step)

    overhead = len(
        container.write(container.encode(Image.new(facts.mode, (1, 1)), container.LADDER[-1]), blocks, sealed)
    )
    room = facts.length - overhead
    best = largest_fitting(
        container.LADDER,
        encode,
        fits=lambda encoded: len(container.write(encoded, blocks, sealed)) <= facts.length,
        guess=_guess(image, container, room),
    )
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


def largest_fitting(
    ladder: tuple[Step, ...], encode: Callable[[Step], Encoded], fits: Callable[[Encoded], bool], guess: int
) -> Encoded | None:
    """The highest rung whose encoding fits, sizes growing with the rungs.

    Strides that double away from the guess, then bisection.
    """
    low, high = -1, len(ladder)  # low fits, high does not
    best: Encoded | None = None
    at, stride = min(max(guess, 0), len(ladder) - 1), 1
    while high - low > 1:
        encoded = encode(ladder[at])
        if fits(encoded):
            low, best = at, encoded
            at = min(at + stride, (low + high) // 2 if high < len(ladder) else len(ladder) - 1)
        else:
            high = at
            at = max(at - stride, (low + high) // 2 if low >= 0 else 0)
        stride *= 2
    return best


def _guess(image: Image.Image, container: Container, room: int) -> int:
    """Which rung probably fits, judged by a sample of tiles from all over the picture."""
    width, height = image.size
    sample = image
    if width * height > 4 * (_SAMPLE * _TILE) ** 2:
        sample = Image.new(image.mode, (_SAMPLE * _TILE, _SAMPLE * _TILE))
        for row in range(_SAMPLE):
            for column in range(_SAMPLE):
                left, top = (width - _TILE) * column // (_SAMPLE - 1), (height - _TILE) * row // (_SAMPLE - 1)
                left, top = max(0, left), max(0, top)
                sample.paste(image.crop((left, top, left + _TILE, top + _TILE)), (column * _TILE, row * _TILE))
    share = sample.width * sample.height / (width * height)
    low, high = -1, len(container.LADDER)
    while high - low > 1:
        middle = (low + high) // 2
        step = container.LADDER[middle]
        if len(container.encode(pixels.smoothed(sample, step.smooth), step).data) <= room * share:
            low = middle
        else:
            high = middle
    return low
