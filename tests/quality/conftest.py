"""Photographs that come with scikit-image, and a profile that decodes in a few steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from archiver.formats import build_placeholder
from tests.formats import image_samples

pytest.importorskip("brisque")
pytest.importorskip("skimage")

WEIGHTS = Path(__file__).resolve().parents[2] / "archiver/models/weights/embedded-1"
QUICK = """
[presets.quick]
sgc = { sampler = "dpm-solver", steps = 3, guidance = 2.0, start = 0.7, colours_condition = true }
cocli = { sampler = "dpm-solver", steps = 2, guidance = 2.0 }

"""


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    """Three photographs (256, 256, 3)."""
    import skimage.data

    made = (skimage.data.astronaut(), skimage.data.chelsea()[:300, 70:370], skimage.data.coffee()[:400, 100:500])
    return [np.asarray(Image.fromarray(one).resize((256, 256), Image.Resampling.LANCZOS)) for one in made]


@pytest.fixture(scope="session")
def folder(photos: list[NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of them as files, one file that is none, and a placeholder."""
    place = tmp_path_factory.mktemp("photos")
    for name, pixels in zip(("one.png", "two.jpg"), photos, strict=False):
        Image.fromarray(pixels).save(place / name)
    (place / "three.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no photograph")
    data = image_samples.samples()["jpeg"]
    envelope, metadata = image_samples.envelope_for(data, bytes(100)), image_samples.inspected(data).metadata
    (place / "four.jpg").write_bytes(build_placeholder(envelope, metadata, image_samples.PREVIEW))
    return place


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that ship with the package, with a preset of very few steps."""
    place = tmp_path_factory.mktemp("weights") / "quick"
    shutil.copytree(WEIGHTS, place)
    head, bracket, files = (place / "profile.toml").read_text().partition("[[files]]")
    (place / "profile.toml").write_text(head + QUICK + bracket + files)
    return place
