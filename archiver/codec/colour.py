"""Integer colour spaces and area means: exact on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_ycocg(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """sRGB bytes (..., 3) to luma 0..255 and two chromas -255..255, reversibly (YCoCg-R, Malvar & Sullivan 2003)."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    orange = red - blue
    middle = blue + (orange >> 1)
    lime = green - middle
    return np.stack([middle + (lime >> 1), orange, lime], -1)


def from_ycocg(planes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The inverse of `to_ycocg`; what falls outside a byte is clipped."""
    luma, orange, lime = np.moveaxis(planes, -1, 0)
    middle = luma - (lime >> 1)
    green = lime + middle
    blue = middle - (orange >> 1)
    rgb: NDArray[np.int32] = np.clip(np.stack([blue + orange, green, blue], -1), 0, 255)
    return rgb.astype(np.uint8)


def shrink(pixels: NDArray[np.uint8], columns: int, rows: int) -> NDArray[np.uint8]:
    """Mean colours (rows, columns, 3) of the cells of a picture (h, w, 3) of at least as many pixels.

    Cells whose border falls within a pixel share it by area (box filter).
    """
    height, width, _ = pixels.shape
    bands = box(height, rows) @ pixels.reshape(height, -1).astype(np.float64)
    means = box(width, columns) @ bands.reshape(rows, width, -1)
    return np.rint(means).astype(np.uint8)


def area_means(maps: NDArray[np.float32], columns: int, rows: int) -> NDArray[np.float32]:
    """Means (..., rows, columns) of the cells of maps (..., h, w) of at least as many, shared by area."""
    height, width = maps.shape[-2:]
    means: NDArray[np.float32] = (box(height, rows) @ maps.astype(np.float64) @ box(width, columns).T).astype(
        np.float32
    )
    return means


def box(size: int, cells: int) -> NDArray[np.float64]:
    """(cells, size): the share of each of `size` pixels in the mean of each of `cells` cells, by area."""
    edges = np.arange(cells + 1) * (size / cells)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float64] = np.clip(overlap, 0, None) / (size / cells)
    return shares
