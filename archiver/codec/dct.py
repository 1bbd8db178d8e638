"""Colour maps as the low-frequency coefficients of an orthonormal 2-D DCT, quantised and entropy-coded.

The side information of G-COCLICO (Bordin & Maugey, arXiv 2404.06865): a known linear map of the picture, which the
decoder steers by. Which coefficients, their step and their model are ours.

    rows varint | columns varint | kept luma 1 | kept chroma 1 | luma step 1 | chroma step 1
    range-coded: luma, Co, Cg; kept coefficients of each in order of rising frequency
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from archiver.codec.colour import from_ycocg, to_ycocg
from archiver.codec.entropy import SymbolCoder, SymbolReader, SymbolWriter, two_sided_geometric
from archiver.codec.fields import FieldReader, varint
from archiver.errors import RecordCorrupt

MAX_SIDE = 64
_CHANNELS = 3
_MEAN_LIMIT, _LIMIT = 1023, 127  # of the first and of the other quantised coefficients; beyond them they are clipped
_MIDDLE = (128, 0, 0)  # grey: what the first coefficient is coded against
_SIZES = (30, 14, 14)  # mean magnitude of coefficient i is about size / (i + 2)^(3/4) levels; 120 photographs, 16x16
_RECENT = 6  # coefficients of nearly the same frequency that tell how large the next one may be


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which coefficients are kept, and how finely.

    luma, chroma: how many. The steps are quarters of a level of a byte, of coefficients scaled so that the first is the
    mean of its plane.
    """

    luma: int
    chroma: int
    luma_step: int
    chroma_step: int


@dataclass(frozen=True, slots=True)
class LowFrequencies:
    """What a payload says: a map of (rows, columns) of which `coefficients` are known at the places `mask`.

    coefficients, mask: (3, rows, columns); luma, Co, Cg in levels of a byte, of the orthonormal DCT.
    """

    coefficients: NDArray[np.float64]
    mask: NDArray[np.bool_]

    def picture(self) -> NDArray[np.uint8]:
        """The map (rows, columns, 3) of sRGB bytes with all unknown coefficients zero."""
        _, rows, columns = self.coefficients.shape
        planes = basis(rows).T @ self.coefficients @ basis(columns)
        return from_ycocg(np.rint(planes).astype(np.int32).transpose(1, 2, 0))


@lru_cache(maxsize=32)
def basis(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II (size, size) for maps and latents, which have at most 128 cells a side."""
    return matrix(size)


def matrix(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II (size, size): coefficients = matrix @ samples, samples = matrix.T @ coefficients.

    32 MB where a record claims the largest embedding, so who keeps it must know how many.
    """
    frequency, place = np.arange(size)[:, None], np.arange(size)[None, :]
    rows: NDArray[np.float64] = np.cos(np.pi * (2 * place + 1) * frequency / (2 * size)) * np.sqrt(2 / size)
    rows[0] = np.sqrt(1 / size)
    rows.setflags(write=False)
    return rows


@lru_cache(maxsize=16)  # up to 4096 pairs each
def frequency_order(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    """All (row, column) indices by rising frequency; integer arithmetic, so that it is the same everywhere."""
    return tuple(
        sorted(
            ((row, column) for row in range(rows) for column in range(columns)),
            key=lambda at: ((at[0] * columns) ** 2 + (at[1] * rows) ** 2, at),
        )
    )


def encode(colours: NDArray[np.uint8], truncation: Truncation) -> bytes:
    """Code the low frequencies of a map (rows, columns, 3) of sRGB bytes; no more are kept than there are.

    Raises ValueError for a map or a truncation that the format does not hold.
    """
    rows, columns, _ = colours.shape
    luma, chroma = (min(count, rows * columns) for count in (truncation.luma, truncation.chroma))
    steps = (truncation.luma_step, truncation.chroma_step)
    if max(rows, columns) > MAX_SIDE or min(luma, chroma, *steps) < 1 or max(steps) > 255:
        raise ValueError(f"no DCT payload for {columns}x{rows} cells and {truncation}")
    writer = SymbolWriter()
    for levels, step, size in zip(_quantised(colours, truncation), (steps[0], steps[1], steps[1]), _SIZES, strict=True):
        _walk(writer, levels, step, size)
    head = b"".join(map(varint, (rows, columns, luma, chroma)))
    return head + bytes(steps) + writer.to_bytes()


def holds(colours: NDArray[np.uint8], truncation: Truncation) -> bool:
    """Whether `encode` would clip none of the coefficients: the strongest of a map in black and white, or in two pure
    colours, is out of the range of the finest steps, and without it the map is another.
    """
    return all(
        abs(level) <= (_LIMIT if index else _MEAN_LIMIT)
        for levels in _quantised(colours, truncation)
        for index, level in enumerate(levels)
    )


def decode(payload: bytes) -> LowFrequencies:
    """The known coefficients of a payload.

    Raises RecordCorrupt.
    """
    reader = FieldReader(payload)
    rows = reader.varint("the colour map's rows", 1, MAX_SIDE)
    columns = reader.varint("the colour map's columns", 1, MAX_SIDE)
    luma, chroma = (reader.varint("the number of coefficients", 1, rows * columns) for _ in range(2))
    luma_step, chroma_step = (reader.byte("the step of the coefficients") for _ in range(2))
    if not luma_step or not chroma_step:
        raise RecordCorrupt(problem="the coefficients have no step")
    symbols = SymbolReader(reader.rest())
    coefficients = np.zeros((_CHANNELS, rows, columns))
    mask = np.zeros((_CHANNELS, rows, columns), np.bool_)
    for channel, (count, step) in enumerate(_by_channel(luma, chroma, luma_step, chroma_step)):
        levels = [0] * count
        _walk(symbols, levels, step, _SIZES[channel])
        places = _places(rows, columns, count)
        coefficients[channel][places] = np.array(levels) * _unit(rows, columns, step)
        mask[channel][places] = True
        coefficients[channel, 0, 0] += _MIDDLE[channel] * np.sqrt(rows * columns)
    symbols.finish("the colour map")
    return LowFrequencies(coefficients, mask)


def _quantised(colours: NDArray[np.uint8], truncation: Truncation) -> list[list[int]]:
    """The kept coefficients of luma, Co and Cg, in steps."""
    rows, columns, _ = colours.shape
    planes = to_ycocg(colours).transpose(2, 0, 1) - np.array(_MIDDLE)[:, None, None]
    coefficients = basis(rows) @ planes @ basis(columns).T
    kept = _by_channel(truncation.luma, truncation.chroma, truncation.luma_step, truncation.chroma_step)
    return [
        [round(value) for value in (plane[_places(rows, columns, count)] / _unit(rows, columns, step)).tolist()]
        for plane, (count, step) in zip(coefficients, kept, strict=True)
    ]


def _by_channel(luma: int, chroma: int, luma_step: int, chroma_step: int) -> list[tuple[int, int]]:
    return [(luma, luma_step), (chroma, chroma_step), (chroma, chroma_step)]


def _places(rows: int, columns: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column indices of the `count` lowest frequencies."""
    at = np.array(frequency_order(rows, columns)[:count], np.intp)
    return at[:, 0], at[:, 1]


def _unit(rows: int, columns: int, step: int) -> float:
    """The step of an orthonormal coefficient that moves the plane's mean by step / 4."""
    return float(np.sqrt(rows * columns)) * step / 4


def _walk(coder: SymbolCoder, levels: list[int], step: int, size: int) -> None:
    """Code one channel in place: a writer finds its levels there (and clips them), a reader leaves them there.

    A coefficient is modelled by its place, and by the magnitudes just coded, which are of nearly the same frequency.
    """
    recent: deque[int] = deque(maxlen=_RECENT)
    for index, level in enumerate(levels):
        limit = _LIMIT if index else _MEAN_LIMIT
        n = index + 2
        expected = (4 * size << 16) // (step * isqrt(n * isqrt(n << 16) << 8))
        spread = (4 * expected + (sum(recent) << 8)) // (4 + len(recent))
        weights = two_sided_geometric(0, -limit, limit, max(8, spread))
        levels[index] = coder.code(weights, min(max(level, -limit), limit) + limit) - limit
        if index:
            recent.append(abs(levels[index]))
