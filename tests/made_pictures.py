"""Made pictures and label maps that look enough like photographs for a codec: smooth parts, edges, texture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def photograph(seed: int, width: int = 256, height: int = 256) -> NDArray[np.uint8]:
    """A picture (height, width, 3) with power falling over frequency as in photographs, and a few flat objects."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3))
    for octave in range(2, 8):
        noise = rng.normal(0, 90 / octave, (2**octave, 2**octave, 3)) + rng.normal(
            0, 90 / octave, (2**octave, 2**octave, 1)
        )
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel].astype(np.float32))
            canvas[..., channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) / octave
    ys, xs = np.mgrid[:height, :width]
    for _ in range(4):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(10, 80)
        canvas[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] += rng.normal(0, 50, 3)
    return np.clip(canvas + rng.uniform(60, 190), 0, 255).astype(np.uint8)


def label_map(seed: int, rows: int = 32, columns: int = 32, regions: int = 9, words: int = 32) -> NDArray[np.uint8]:
    """A map (rows, columns) of a few connected regions with rough borders."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 1, (regions, 2)) * (rows, columns)
    names = rng.choice(words, regions, replace=False)
    ys, xs = np.mgrid[:rows, :columns]
    distance = (ys[..., None] - centres[:, 0]) ** 2 + (xs[..., None] - centres[:, 1]) ** 2
    distance = distance * rng.uniform(0.5, 2, regions) + rng.normal(0, 4, distance.shape)
    return names[distance.argmin(-1)].astype(np.uint8)


def attention(seed: int, heads: int = 4, rows: int = 8, columns: int = 8) -> NDArray[np.float32]:
    """Attention (heads, rows, columns) that cells receive: smooth maps with a mean of 1 and a spread of an octave."""
    rng = np.random.default_rng(seed)
    octaves = rng.normal(0, 1, (heads, rows, columns))
    for axis in (1, 2):
        octaves = octaves + np.roll(octaves, 1, axis) / 2
    received = 2 ** np.clip(octaves / max(float(octaves.std()), 0.1), -5, 5)
    return (received / received.mean((1, 2), keepdims=True)).astype(np.float32)
