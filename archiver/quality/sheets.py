"""Contact sheets: the original, what each scheme makes of it, and each codec at the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from archiver.quality.bench import VARYING, Result, Row

_TILE, _GAP, _CAPTION = 220, 8, 34
_PAPER, _INK, _ACCENT = "#f4f2ee", "#23211f", "#b3470b"
_PER_PAGE = 4  # pictures


def draw_strip(result: Result, codecs: Sequence[str]) -> Image.Image:
    """Two rows of tiles: the original and the schemes, then the codecs at the bytes of the first scheme that varies."""
    tiles = list(zip(result.rows, result.pictures, strict=True))
    targets = [row.target for row in result.rows if row.target]
    same_bytes_as = next((target for target in (*VARYING, *targets) if target in targets), "")
    upper = [tile for tile in tiles if not tile[0].target and (tile[0].size or tile[0].method == "original")]
    lower = [tile for tile in tiles if tile[0].method in codecs and tile[0].target == same_bytes_as]
    columns = max(len(upper), len(lower))
    strip = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, 2 * (_TILE + _CAPTION + _GAP)), _PAPER)
    for line, row_of_tiles in enumerate((upper, lower)):
        for column, (row, pixels) in enumerate(row_of_tiles):
            _draw_tile(strip, (_GAP + column * (_TILE + _GAP), line * (_TILE + _CAPTION + _GAP)), row, pixels)
    return strip


def _draw_tile(strip: Image.Image, corner: tuple[int, int], row: Row, pixels: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    strip.paste(picture, (corner[0], corner[1] + _GAP))
    generated = row.size is not None and not row.target
    size = "" if row.size is None else f"  {row.size:,} bytes"
    lines = (
        f"{'SYNTHETIC ' if generated else ''}{row.method}{size}",
        f"semantics {row.semantics:.2f}  BRISQUE {'-' if isnan(row.brisque) else f'{row.brisque:.0f}'}",
    )
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for number, text in enumerate(lines):
        at = (corner[0], corner[1] + _GAP + _TILE + 2 + 15 * number)
        draw.text(at, text, _ACCENT if generated and not number else _INK, font)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def join_strips(strips: Iterable[Path], folder: Path) -> list[Path]:
    """Pages `sheet-001.png` ... of four strips each, one below the other; returns their paths. Raises OSError."""
    files, pages = list(strips), []
    for first in range(0, len(files), _PER_PAGE):
        images = [_opened(file) for file in files[first : first + _PER_PAGE]]
        size = (max(image.width for image in images), sum(image.height for image in images))
        page, top = Image.new("RGB", size, _PAPER), 0
        for image in images:
            page.paste(image, (0, top))
            top += image.height
        pages.append(folder / f"sheet-{first // _PER_PAGE + 1:03}.png")
        page.save(pages[-1])
    return pages
