"""A small tar shard of generated pictures, since training photographs do not belong in the repository."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PICTURES = 60
SIDE = 64


def _picture(seed: int) -> Image.Image:
    """A smooth coloured background with a few rectangles: something to learn, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    for _ in range(3):
        y, x = rng.integers(0, SIDE - 16, 2)
        pixels[y : y + 16, x : x + 16] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tar shards of WebP pictures."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for number in range(shard, PICTURES, 2):
                stream = io.BytesIO()
                _picture(number).save(stream, "WEBP", quality=85)
                entry = tarfile.TarInfo(f"{number:06d}.webp")
                entry.size = stream.tell()
                stream.seek(0)
                tar.addfile(entry, stream)
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several threads in several test processes would only wait for one another."""
    torch.set_num_threads(1)
