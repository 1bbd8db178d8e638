"""The best that a codec can do within a number of bytes: at every size it may be shrunk to before it is coded."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archiver.quality.codecs import CODECS, Codec

# Of the picture's sides: what is coded is shrunk by this and enlarged again afterwards.
_SCALES = (1, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16, 1 / 32)

Choose = Callable[[Sequence[NDArray[np.uint8]]], int]
"""Which of some pictures (h, w, 3) is the nearest to the original."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A picture as a codec stores it: shrunk to `width` x `height` pixels and coded at `quality`."""

    codec: str
    quality: int
    width: int
    height: int
    payload: bytes

    def picture(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Decoded and enlarged to `size` (w, h) pixels: (h, w, 3)."""
        decoded = CODECS[self.codec].decode(self.payload)
        return np.asarray(decoded.resize(size, Image.Resampling.BICUBIC))


class Search:
    """The searches on one picture (h, w, 3); what was coded once is kept for the next one.

    `folder` remembers what was found, from run to run.
    """

    def __init__(self, pixels: NDArray[np.uint8], choose: Choose, folder: Path | None = None) -> None:
        self._image = Image.fromarray(pixels)
        self._choose = choose
        self._folder = folder
        self._shrunk: dict[tuple[int, int], Image.Image] = {}
        self._coded: dict[tuple[str, tuple[int, int], int], bytes] = {}

    def best(self, codec: Codec, target: int) -> Coded:
        """The nearest to the original, of all sizes and settings, in `target` bytes; the smallest if none fits."""
        known = self._folder / f"{codec.name}-{target}.json" if self._folder else None
        if known and known.exists():
            return _read(known, codec)
        sizes = self._sizes(codec)
        fitting = [found for size in sizes if (found := self._finest(codec, size, target)) is not None]
        if fitting:
            chosen = fitting[self._choose([one.picture(self._image.size) for one in fitting])]
        else:
            chosen = min((self._at(codec, size, codec.low) for size in sizes), key=lambda one: len(one.payload))
        if known:
            _write(known, chosen)
        return chosen

    def lowest(self, codec: Codec) -> Coded:
        """The worst that the codec can do without shrinking."""
        return self._at(codec, self._image.size, codec.low)

    def _sizes(self, codec: Codec) -> list[tuple[int, int]]:
        width, height = self._image.size
        sizes = [(round(width * scale), round(height * scale)) for scale in _SCALES]
        return [size for size in sizes if min(size) >= codec.smallest]

    def _finest(self, codec: Codec, size: tuple[int, int], target: int) -> Coded | None:
        """The highest setting at this size whose bytes fit, by bisection."""
        if len(self._at(codec, size, codec.low).payload) > target:
            return None
        low, high = codec.low, codec.high + 1
        while high - low > 1:
            middle = (low + high) // 2
            if len(self._at(codec, size, middle).payload) <= target:
                low = middle
            else:
                high = middle
        return self._at(codec, size, low)

    def _at(self, codec: Codec, size: tuple[int, int], quality: int) -> Coded:
        key = (codec.name, size, quality)
        if key not in self._coded:
            if size not in self._shrunk:
                self._shrunk[size] = self._image.resize(size, Image.Resampling.LANCZOS)
            self._coded[key] = codec.encode(self._shrunk[size], quality)
        return Coded(codec.name, quality, *size, self._coded[key])


def _read(path: Path, codec: Codec) -> Coded:
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Coded(codec.name, raw["quality"], raw["width"], raw["height"], base64.b64decode(raw["payload"]))


def _write(path: Path, coded: Coded) -> None:
    plain = {
        "quality": coded.quality,
        "width": coded.width,
        "height": coded.height,
        "payload": base64.b64encode(coded.payload).decode(),
    }
    write_whole(path, json.dumps(plain).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is never seen half-written, whenever the run is interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
