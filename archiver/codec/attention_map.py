"""Attention maps for SEACOM: how much attention each cell of a picture receives, by attention head, in a few bits.

That attention maps are the side information, and that they steer, is SEACOM's; which attention, its quantiser and its
coding are ours. A self-attention of the denoiser gives each cell a share of every other cell's look: the mean over the
looking cells, times the number of cells, is 1 where attention is even. That quotient is cut to 1/8..8 on a logarithmic
scale, predicted from the west and north neighbours, and the residual coded under a two-sided geometric model whose
spread is learnt for each head.

    heads varint | rows varint | columns varint | bits 1 | range-coded: head by head, row by row
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archiver.codec.entropy import SymbolCoder, SymbolReader, SymbolWriter, two_sided_geometric
from archiver.codec.fields import FieldReader, varint
from archiver.errors import RecordCorrupt

BITS = (2, 3, 4)
MAX_HEADS = 16
MAX_SIDE = 32
_OCTAVES = 6.0  # from 1/8 to 8 times an even share


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Quantised maps: `levels` (heads, rows, columns) of 0..2^bits - 1, evenly spaced in the logarithm."""

    bits: int
    levels: NDArray[np.uint8]

    def octaves(self) -> NDArray[np.float32]:
        """Base-2 logarithm of the attention received, relative to an even share; (heads, rows, columns)."""
        count = 1 << self.bits
        return ((self.levels - (count - 1) / 2) * (_OCTAVES / count)).astype(np.float32)


def quantise(received: NDArray[np.float32], bits: int) -> AttentionMaps:
    """The maps of attention received (heads, rows, columns), 1 for an even share, in 2, 3 or 4 bits.

    Raises ValueError for maps that the format does not hold, or that are not finite and positive.
    """
    if received.ndim != 3 or bits not in BITS or not _within(*received.shape):
        raise ValueError(f"no attention maps of shape {received.shape} in {bits} bits")
    if not (np.isfinite(received).all() and (received >= 0).all()):
        raise ValueError("attention is a finite share")
    count = 1 << bits
    octaves = np.log2(np.maximum(received.astype(np.float64), 2.0**-_OCTAVES))
    levels = np.clip(np.floor((octaves / _OCTAVES + 0.5) * count), 0, count - 1)
    return AttentionMaps(bits, levels.astype(np.uint8))


def encode(maps: AttentionMaps) -> bytes:
    """The payload of maps."""
    writer = SymbolWriter()
    for head in maps.levels.tolist():
        _walk(writer, head, maps.bits)
    return b"".join(map(varint, maps.levels.shape)) + bytes((maps.bits,)) + writer.to_bytes()


def decode(payload: bytes) -> AttentionMaps:
    """The maps of a payload.

    Raises RecordCorrupt.
    """
    reader = FieldReader(payload)
    heads = reader.varint("the attention's heads", 1, MAX_HEADS)
    rows, columns = (reader.varint(f"the attention's {what}", 1, MAX_SIDE) for what in ("rows", "columns"))
    bits = reader.byte("the attention's bits")
    if bits not in BITS:
        raise RecordCorrupt(problem=f"attention in {bits} bits")
    symbols = SymbolReader(reader.rest())
    levels = np.empty((heads, rows, columns), np.uint8)
    for head in range(heads):
        found = [[0] * columns for _ in range(rows)]
        _walk(symbols, found, bits)
        levels[head] = found
    symbols.finish("the attention map")
    return AttentionMaps(bits, levels)


def _within(heads: int, rows: int, columns: int) -> bool:
    return 1 <= heads <= MAX_HEADS and all(1 <= side <= MAX_SIDE for side in (rows, columns))


def _walk(coder: SymbolCoder, levels: list[list[int]], bits: int) -> None:
    """Code one head in place: a writer finds its levels there, a reader leaves them there."""
    top = (1 << bits) - 1
    seen, count = 1 << 8 + bits - 2, 2  # 256 times the residuals so far, as if a few had been seen, and their number
    for y, row in enumerate(levels):
        for x, level in enumerate(row):
            known = [row[x - 1]] if x else []
            known += [levels[y - 1][x]] if y else []
            centre = (2 * sum(known) + len(known)) // (2 * len(known)) if known else top // 2
            row[x] = coder.code(two_sided_geometric(centre, 0, top, max(16, seen // count)), level)
            seen, count = seen + 256 * abs(row[x] - centre), count + 1
