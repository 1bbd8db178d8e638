"""The small valid image that stands where a released original was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archiver.errors import ImageRefused
from archiver.formats import pixels
from archiver.formats.containers import container_of
from archiver.formats.envelope import Storage, seal
from archiver.formats.facts import BLOCK, Block, Envelope, Kind, Metadata, Refusal, SourceFacts

_SMALLEST_NATIVE = 24  # pixels of the long side; rather than show less, metadata is packed
_LONG_SIDES = (256, 192, 128, 96, 64, 48, 32, 24, 16, 8)  # pixels; the largest that fits is taken


def build_placeholder(envelope: Envelope, metadata: Metadata, preview: NDArray[np.uint8]) -> bytes:
    """The head of a placeholder: a whole image file, to be followed by a hole up to the original's length.

    `preview` is the colour map, uint8 (rows, columns, 3), sRGB, upright. The head has at most 4096 bytes unless the
    metadata needs more: it is kept natively if all fits into one block, else packed into the envelope, else packed
    behind the first block. That first block alone always is a whole image with its record. Raises ImageRefused if the
    head would be no shorter than the original, or the record leaves no room.
    """
    envelope = replace(envelope, kind=Kind.PLACEHOLDER)
    native = _head(envelope.source, metadata.blocks, seal(envelope), preview, _SMALLEST_NATIVE if metadata else 0)
    if native is not None:
        return native
    packed = metadata.to_bytes()
    inside = _head(envelope.source, (), seal(envelope, Storage.INSIDE, packed), preview)
    if inside is not None:
        return inside
    first = _head(envelope.source, (), seal(envelope, Storage.BEHIND, packed), preview)
    if first is None:
        raise ImageRefused(reason=Refusal.DOES_NOT_FIT, detail=f"a record of {len(envelope.record)} bytes")
    head = first.ljust(BLOCK, b"\0") + packed
    if len(head) >= envelope.source.length:
        raise ImageRefused(reason=Refusal.METADATA_TOO_LARGE, detail=f"its placeholder would take {len(head)} bytes")
    return head


def _head(
    facts: SourceFacts, blocks: Sequence[Block], sealed: bytes, preview: NDArray[np.uint8], smallest: int = 0
) -> bytes | None:
    """One block at most, with the largest picture that fits; None if not even one of `smallest` pixels does."""
    container = container_of(facts.format)
    if len(sealed) + sum(len(block.data) for block in blocks) > BLOCK:
        return None
    # Of the small colour map, not of each picture that is made of it.
    colours = pixels.from_srgb(pixels.from_array(preview), container.icc_of(blocks), facts.mode)
    for long_side in _LONG_SIDES:
        if not smallest <= long_side <= container.PREVIEW_LONG_SIDE:
            continue
        image = _picture(colours, facts, long_side)
        image = pixels.to_stored(image, facts.orientation) if blocks else image
        head = container.write(container.encode(image, container.PREVIEW), blocks, sealed)
        if len(head) <= BLOCK:
            return head
    return None


def _picture(colours: Image.Image, facts: SourceFacts, long_side: int) -> Image.Image:
    """The blurred colour map."""
    width, height = facts.upright_size
    scale = long_side / max(width, height)
    return pixels.blurred(colours, (max(1, round(width * scale)), max(1, round(height * scale))))
