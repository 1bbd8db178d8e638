"""A JPEG that was encoded in bands is the JPEG that one encoder would have made, coefficient by coefficient."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from archiver.formats import jpeg, jpeg_bands


def picture(width: int, height: int, *, grey: bool = False) -> NDArray[np.uint8]:
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.clip(np.asarray(coarse) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    return noisy[..., 0].copy() if grey else noisy


def decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image)


def whole(pixels: NDArray[np.uint8], quality: int, *, subsampled: bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0" if subsampled else "4:4:4")
    return buffer.getvalue()


@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("grey", [False, True])
# Less than a band; whole bands; a last band of one row; more than eight bands, so that markers begin anew.
@pytest.mark.parametrize("size", [(640, 100), (512, 384), (333, 257), (300, 1301)])
def test_it_is_what_one_encoder_makes(size: tuple[int, int], *, grey: bool, subsampled: bool) -> None:
    pixels = picture(*size, grey=grey)
    data = jpeg_bands.encode(pixels, 89, subsampled=subsampled)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == size and image.mode == ("L" if grey else "RGB")
    assert np.array_equal(decoded(data), decoded(whole(pixels, 89, subsampled=subsampled)))
    examined = jpeg.examine(io.BytesIO(data))  # refuses what follows an end
    assert (examined.width, examined.height) == size


def test_other_decoders_agree(tmp_path: Path) -> None:
    data = jpeg_bands.encode(picture(700, 900), 90, subsampled=False)
    (tmp_path / "a.jpg").write_bytes(data)
    seen = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(seen, decoded(data))
    if djpeg := shutil.which("djpeg"):
        done = subprocess.run([djpeg, str(tmp_path / "a.jpg")], capture_output=True, check=True)
        assert not done.stderr  # it names every marker that is out of its place


def test_it_is_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(500, 700)
    alone = {}
    for cores in (1, 2, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        alone[cores] = jpeg_bands.encode(pixels, 92, subsampled=False)
    assert alone[1] == alone[2] == alone[7]


def test_a_very_wide_picture_has_lower_bands() -> None:
    """A restart interval has 65,535 blocks at most."""
    pixels = picture(33_000, 144, grey=True)
    data = jpeg_bands.encode(pixels, 50, subsampled=False)
    assert data.count(b"\xff\xdd\x00\x04") == 1
    assert np.array_equal(decoded(data), decoded(whole(pixels, 50, subsampled=False)))
