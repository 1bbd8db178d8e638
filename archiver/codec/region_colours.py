"""Colour maps with a precision per object, for SESECO: coarse everywhere, fine where a label region asks for it.

The page of SESECO says "a colour map with a precision per object"; how is ours. A map of half the resolution is coded
for the whole picture; regions whose colours it misses by more than a step on average are refined cell by cell.

    rows varint | columns varint | length of the coarse map varint | coarse map (archiver.codec.colour_map)
    range-coded: one flag a label, then luma, Co, Cg of the differences of each refined cell, row by row
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from archiver.codec import colour_map
from archiver.codec.colour import from_ycocg, shrink, to_ycocg
from archiver.codec.entropy import SymbolCoder, SymbolReader, SymbolWriter, two_sided_geometric
from archiver.codec.fields import FieldReader, varint
from archiver.codec.label_map import MAX_SIDE as MAX_LABEL_SIDE
from archiver.errors import RecordCorrupt

COARSE_DETAIL = 0.5  # of a cell that is only known as part of its coarse cell; a refined one has 1
_MAX_PAYLOAD = 1 << 15
_LIMIT = 255  # of a quantised difference


def encode(
    colours: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    luma_step: int,
    chroma_step: int,
    refine: frozenset[int] | None = None,
) -> bytes:
    """Code a map (rows, columns, 3) of sRGB bytes, half the side of the label map `labels` or less, in steps (1..255).

    `refine` are the labels whose regions are coded finely; None: those whose colours the coarse map misses.

    Raises ValueError for a map that the format does not hold.
    """
    rows, columns, _ = colours.shape
    coarse = colour_map.encode(shrink(colours, _half(columns), _half(rows)), luma_step, chroma_step)
    regions = _regions(labels, rows, columns)
    steps = np.array((luma_step, chroma_step, chroma_step))
    difference = to_ycocg(colours) - _enlarged(colour_map.decode(coarse), rows, columns)
    levels = np.clip((2 * difference + steps) // (2 * steps), -_LIMIT, _LIMIT)
    missed = np.abs(difference[..., 0])
    present = np.unique(regions).tolist()
    if refine is None:
        refine = frozenset(label for label in present if float(missed[regions == label].mean()) > luma_step)
    writer = SymbolWriter()
    refined = _code_flags(writer, present, refine)
    _walk(writer, levels, np.isin(regions, sorted(refined)))
    return varint(rows) + varint(columns) + varint(len(coarse)) + coarse + writer.to_bytes()


def decode(payload: bytes, labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The map (rows, columns, 3) of sRGB bytes and how finely each cell (rows, columns) is known, 0.5 or 1.

    Raises RecordCorrupt.
    """
    reader = FieldReader(payload)
    rows = reader.varint("the colour map's rows", 1, min(colour_map.MAX_SIDE, MAX_LABEL_SIDE))
    columns = reader.varint("the colour map's columns", 1, min(colour_map.MAX_SIDE, MAX_LABEL_SIDE))
    coded = reader.take(reader.varint("the coarse map's length", 1, _MAX_PAYLOAD), "the coarse map")
    coarse = colour_map.decode(coded)
    if coarse.shape[:2] != (_half(rows), _half(columns)):
        raise RecordCorrupt(problem="the coarse colour map does not fit the fine one")
    luma_step, chroma_step = colour_map.steps(coded)
    symbols = SymbolReader(reader.rest())
    regions = _regions(labels, rows, columns)
    fine = np.isin(regions, sorted(_code_flags(symbols, np.unique(regions).tolist(), set())))
    levels = np.zeros((rows, columns, 3), np.int32)
    _walk(symbols, levels, fine)
    symbols.finish("the region colours")
    planes = _enlarged(coarse, rows, columns) + levels * np.array((luma_step, chroma_step, chroma_step))
    return from_ycocg(planes), np.where(fine, 1, COARSE_DETAIL).astype(np.float32)


def _half(cells: int) -> int:
    return (cells + 1) // 2


def _regions(labels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The label at the middle of each colour cell."""
    down, across = labels.shape
    ys = (2 * np.arange(rows) + 1) * down // (2 * rows)
    xs = (2 * np.arange(columns) + 1) * across // (2 * columns)
    return labels[np.ix_(ys, xs)]


def _enlarged(coarse: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.int32]:
    """The coarse map at (rows, columns), as YCoCg planes, each cell repeated."""
    return to_ycocg(coarse).repeat(2, 0).repeat(2, 1)[:rows, :columns]


def _code_flags(coder: SymbolCoder, present: list[int], refined: Set[int]) -> set[int]:
    return {label for label in present if coder.code((1, 1), int(label in refined))}


def _walk(coder: SymbolCoder, levels: NDArray[np.int32], fine: NDArray[np.bool_]) -> None:
    """Code the levels (rows, columns, 3) of the fine cells in place, each channel's spread learnt on the way."""
    seen = [[512, 2] for _ in range(3)]  # 256 times the magnitudes so far, and their number
    for y, x in np.argwhere(fine).tolist():
        for channel, (total, count) in enumerate(seen):
            weights = two_sided_geometric(0, -_LIMIT, _LIMIT, max(16, total // count))
            level = coder.code(weights, int(levels[y, x, channel]) + _LIMIT) - _LIMIT
            levels[y, x, channel] = level
            seen[channel] = [total + 256 * abs(level), count + 1]
