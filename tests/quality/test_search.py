"""The codecs are driven well: whoever compares with them must not hold them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from archiver.quality.codecs import CODECS, Codec
from archiver.quality.search import Search

Pixels = NDArray[np.uint8]


def error(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def search_on(pixels: Pixels, folder: Path | None = None) -> Search:
    """With the mean difference as the judge."""

    def nearest(pictures: Sequence[Pixels]) -> int:
        return min(range(len(pictures)), key=lambda index: error(pictures[index], pixels))

    return Search(pixels, nearest, folder)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_higher_setting_makes_larger_files_and_better_pictures(codec: Codec, photos: list[Pixels]) -> None:
    image = Image.fromarray(photos[0]).resize((96, 64))
    coded = [codec.encode(image, setting) for setting in (codec.low, (codec.low + codec.high) // 2, codec.high)]
    decoded = [codec.decode(data) for data in coded]
    assert {picture.size for picture in decoded} == {(96, 64)}
    errors = [error(np.asarray(picture), np.asarray(image)) for picture in decoded]
    assert len(coded[0]) < len(coded[1]) < len(coded[2])
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", ["webp", "jpeg-xl", "jpeg2000"])
def test_a_codec_keeps_to_its_bytes_and_uses_them(name: str, photos: list[Pixels]) -> None:
    search = search_on(photos[0])
    coded = {target: search.best(CODECS[name], target) for target in (300, 700, 2000)}
    for target, one in coded.items():
        assert 0.8 * target < len(one.payload) <= target
    errors = [error(one.picture((256, 256)), photos[0]) for one in coded.values()]
    assert errors == sorted(errors, reverse=True)


def test_a_codec_may_shrink_the_picture_where_that_looks_better(photos: list[Pixels]) -> None:
    best = search_on(photos[0]).best(CODECS["webp"], 300)
    assert best.width < 256 and best.picture((256, 256)).shape == (256, 256, 3)


def test_what_does_not_fit_at_all_is_the_smallest_there_is(photos: list[Pixels]) -> None:
    search = search_on(photos[0])
    smallest = search.best(CODECS["avif"], 1)
    assert 1 < len(smallest.payload) <= len(search.best(CODECS["avif"], 400).payload)
    assert search.lowest(CODECS["avif"]).width == 256


def test_what_was_found_is_remembered(photos: list[Pixels], tmp_path: Path) -> None:
    def refuse(pictures: Sequence[Pixels]) -> int:
        raise AssertionError("searched again")

    found = search_on(photos[0], tmp_path).best(CODECS["webp"], 500)
    assert Search(photos[0], refuse, tmp_path).best(CODECS["webp"], 500) == found
