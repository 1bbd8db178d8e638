"""Colour maps: a picture's mean colours on a small grid, quantised, predicted and entropy-coded.

The schemes of the papers use a 16x16 map and do not say how it is coded; all of this is ours. Luma and two chromas
(YCoCg-R) are quantised to even steps, each sample is predicted from its west, north and north-west neighbours (the
median edge detector of JPEG-LS, ITU-T T.87), and the residual is coded under a two-sided geometric model whose spread
follows the neighbourhood's activity and what was seen in the same activity class before.

    rows varint | columns varint | luma step 1 | chroma step 1 | range-coded: luma, then Co, then Cg, row by row
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archiver.codec.colour import from_ycocg, to_ycocg
from archiver.codec.entropy import SymbolCoder, SymbolReader, SymbolWriter, two_sided_geometric
from archiver.codec.fields import FieldReader, varint
from archiver.errors import RecordCorrupt

MAX_SIDE = 64
_RANGES = ((0, 255), (-255, 255), (-255, 255))  # of luma, Co, Cg before quantisation
_CLASS_EDGES = (1, 2, 4, 7, 12, 20)  # activity classes: sums of three neighbour differences, in steps


def encode(colours: NDArray[np.uint8], luma_step: int, chroma_step: int) -> bytes:
    """Code a map (rows, columns, 3) of sRGB bytes, to within about half a step (1..255) of luma and chroma.

    Raises ValueError for a map that the format does not hold.
    """
    rows, columns, _ = colours.shape
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE and 1 <= min(luma_step, chroma_step) <= 255):
        raise ValueError(f"no colour map of {columns}x{rows} cells in steps of {luma_step} and {chroma_step}")
    planes = to_ycocg(colours)
    writer = SymbolWriter()
    for channel, step in enumerate((luma_step, chroma_step, chroma_step)):
        levels = (2 * planes[..., channel] + step) // (2 * step)  # to the nearest, in integers
        _walk(writer, levels.tolist(), *_level_range(channel, step))
    return varint(rows) + varint(columns) + bytes((luma_step, chroma_step)) + writer.to_bytes()


def decode(payload: bytes) -> NDArray[np.uint8]:
    """The quantised map (rows, columns, 3) of a payload, sRGB bytes.

    Raises RecordCorrupt.
    """
    return _decoded(payload).copy()


@lru_cache(maxsize=64)  # a trial decode and the release that follows it ask for the same, a few batches apart
def _decoded(payload: bytes) -> NDArray[np.uint8]:
    reader = FieldReader(payload)
    rows, columns, luma_step, chroma_step = _read_head(reader)
    symbols = SymbolReader(reader.rest())
    planes = np.empty((rows, columns, 3), np.int32)
    for channel, step in enumerate((luma_step, chroma_step, chroma_step)):
        levels = [[0] * columns for _ in range(rows)]
        _walk(symbols, levels, *_level_range(channel, step))
        planes[..., channel] = np.array(levels, np.int32) * step
    symbols.finish("the colour map")
    return from_ycocg(planes)


def steps(payload: bytes) -> tuple[int, int]:
    """The luma and chroma steps of a payload.

    Raises RecordCorrupt.
    """
    return _read_head(FieldReader(payload))[2:]


def _read_head(reader: FieldReader) -> tuple[int, int, int, int]:
    rows = reader.varint("the colour map's rows", 1, MAX_SIDE)
    columns = reader.varint("the colour map's columns", 1, MAX_SIDE)
    luma_step, chroma_step = reader.byte("the luma step"), reader.byte("the chroma step")
    if not luma_step or not chroma_step:
        raise RecordCorrupt(problem="the colour map has no step")
    return rows, columns, luma_step, chroma_step


def _level_range(channel: int, step: int) -> tuple[int, int]:
    low, high = _RANGES[channel]
    return (2 * low + step) // (2 * step), (2 * high + step) // (2 * step)


def _walk(coder: SymbolCoder, levels: list[list[int]], low: int, high: int) -> None:
    """Code one plane in place: a writer finds its levels there, a reader leaves them there."""
    classes = [_Spread(activity) for activity in range(len(_CLASS_EDGES) + 1)]
    for y, row in enumerate(levels):
        above = levels[y - 1] if y else None
        for x, level in enumerate(row):
            centre, activity = _predict(row, above, x, (low + high) // 2)
            spread = classes[sum(activity >= edge for edge in _CLASS_EDGES)]
            row[x] = coder.code(two_sided_geometric(centre, low, high, spread.value), level - low) + low
            spread.learn(abs(row[x] - centre))


class _Spread:
    """The mean absolute residual of one activity class, in 1/256, started as if it had been seen a few times."""

    def __init__(self, activity: int) -> None:
        self.total, self.count = 256 * (activity + 1), 2

    @property
    def value(self) -> int:
        return max(16, self.total // self.count)

    def learn(self, residual: int) -> None:
        self.total += 256 * residual
        self.count += 1


def _predict(row: list[int], above: list[int] | None, x: int, nothing_known: int) -> tuple[int, int]:
    """The predicted level and the activity (sum of neighbour differences) at column x."""
    if above is None:
        return (row[x - 1] if x else nothing_known), len(_CLASS_EDGES) * 4
    north = above[x]
    west = row[x - 1] if x else north
    north_west = above[x - 1] if x else north
    north_east = above[x + 1] if x + 1 < len(above) else north
    if north_west >= max(west, north):
        centre = min(west, north)
    elif north_west <= min(west, north):
        centre = max(west, north)
    else:
        centre = west + north - north_west
    return centre, abs(west - north_west) + abs(north_west - north) + abs(north - north_east)
