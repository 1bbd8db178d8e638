"""A photograph as the codec sees it: upright, sRGB, at working size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` is uint8 (h, w, 3), sRGB, upright, at working size; `width` and `height` are the upright source's, in
    pixels.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def working_size(width: int, height: int, long_side: int, multiple: int) -> tuple[int, int]:
    """(w, h) in pixels: the long side at most `long_side`, both sides multiples of `multiple`, the aspect kept as
    nearly as these allow.

    A picture that is smaller already is not enlarged, except to one `multiple` a side. `long_side` must be at least
    `multiple`.
    """
    if min(width, height, multiple) < 1 or long_side < multiple:
        raise ValueError(f"no working size for {width}x{height} at long side {long_side}, multiple {multiple}")
    scale = min(1.0, long_side / max(width, height))
    largest = long_side // multiple
    columns, rows = (min(largest, max(1, round(side * scale / multiple))) for side in (width, height))
    return columns * multiple, rows * multiple
