"""Training that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from archiver.training import denoiser as denoiser_stage
from archiver.training import finish as finish_stage
from archiver.training import polish as polish_stage
from archiver.training.autoencoder import train_autoencoder
from archiver.training.data import Photos, load_photos
from archiver.training.denoiser import train_denoiser
from archiver.training.features import Features, load_features
from archiver.training.loop import Budget, Course, Rhythm, position
from archiver.training.run import train

RHYTHM = Rhythm(rate=1e-3, warm_up=2, save_every=2, log_every=1, check_every=4)
FIVE = Budget(steps=5)


def _interrupted(wrapped: Callable[..., Any], after: int) -> Callable[..., Any]:
    """`wrapped`, cut off as by Ctrl-C after so many calls."""
    calls = 0

    def call(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return wrapped(*args, **named)

    return call


def _assert_same_checkpoint(one: Path, other: Path) -> None:
    with safe_open(one, "pt") as file:
        position = json.loads(file.metadata()["position"])
    assert position["step"] == 5
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


@pytest.fixture
def photos(shards: Path, tmp_path: Path) -> Photos:
    return load_photos(shards, tmp_path / "cache", 64)


def test_a_resumed_autoencoder_equals_an_uninterrupted_one(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()

    def run(out: Path) -> None:
        train_autoencoder(photos, out, FIVE, Course(2, 5, RHYTHM), 32)

    run(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Photos, "crops", _interrupted(Photos.crops, after=3))
        run(cut)
    run(cut)
    _assert_same_checkpoint(whole / "autoencoder.safetensors", cut / "autoencoder.safetensors")


def _features(count: int, side: int) -> Features:
    rng = np.random.default_rng(0)
    return Features(
        latents=rng.normal(size=(count, 2, 16, side, side)).astype(np.float16),
        embeddings=rng.normal(size=(count, 256)).astype(np.float32),
        labels=rng.integers(0, 32, (count, 2 * side, 2 * side), np.uint8),
        colours=rng.uniform(-1, 1, (count, 3, side, side)).astype(np.float16),
    )


def test_a_resumed_denoiser_equals_an_uninterrupted_one(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    features = _features(len(photos.pixels), 8)

    def run(out: Path) -> None:
        train_denoiser(features, photos, out, FIVE, Course(4, 5, RHYTHM))

    run(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(denoiser_stage, "draw", _interrupted(denoiser_stage.draw, after=3))
        run(cut)
    run(cut)
    _assert_same_checkpoint(whole / "denoiser.safetensors", cut / "denoiser.safetensors")


@pytest.mark.parametrize(
    ("module", "draws", "train_stage"),
    [(finish_stage, "draw", finish_stage.train_finish), (polish_stage, "draw_coarse", polish_stage.train_polish)],
    ids=["finish", "polish"],
)
def test_a_resumed_later_stage_equals_an_uninterrupted_one(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    draws: str,
    train_stage: Callable[..., None],
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    name = train_stage.__name__.removeprefix("train_")
    stages = ("autoencoder", "features", "denoiser", "finish", "polish")
    for stage in stages[: stages.index(name)]:
        train(shards, whole, stage, steps=1, long_side=64)
    shutil.copytree(whole, cut)
    photos = load_photos(shards, whole, 64)

    def run(out: Path) -> None:
        train_stage(load_features(out), photos, out, FIVE, Course(4, 5, RHYTHM))

    run(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, draws, _interrupted(getattr(module, draws), after=5))
        run(cut)
    run(cut)
    _assert_same_checkpoint(whole / f"{name}.safetensors", cut / f"{name}.safetensors")


def test_a_training_that_is_told_to_stop_saves_its_last_step(photos: Photos, tmp_path: Path) -> None:
    features, stop, heard = _features(len(photos.pixels), 8), Event(), []

    def tell(share: float, measured: dict[str, float]) -> None:
        heard.append((share, measured.keys()))
        if len(heard) == 3:
            stop.set()

    rhythm = replace(RHYTHM, save_every=100, log_every=2, check_every=100)
    for out, budget in ((tmp_path / "cut", Budget(5, tell=tell, stop=stop)), (tmp_path / "whole", FIVE)):
        out.mkdir()
        train_denoiser(features, photos, out, budget, Course(4, 5, rhythm))
    assert heard == [(0.2, set()), (0.4, {"total", "gradient"}), (0.6, set())]
    assert json.loads(position(tmp_path / "cut" / "denoiser.safetensors"))["step"] == 3
    train_denoiser(features, photos, tmp_path / "cut", FIVE, Course(4, 5, rhythm))
    _assert_same_checkpoint(tmp_path / "whole" / "denoiser.safetensors", tmp_path / "cut" / "denoiser.safetensors")


def test_features_that_are_told_to_stop_do_so_at_once_and_are_computed_again(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, "autoencoder", steps=1, long_side=64)
    stop, heard = Event(), []

    def tell(stage: str, share: float, _measured: dict[str, float]) -> None:
        heard.append((stage, share < 1))
        stop.set()

    train(shards, tmp_path, "features", long_side=64, tell=tell, stop=stop)
    assert heard == [("features", True)]
    assert not (tmp_path / "embeddings.npy").exists()
    train(shards, tmp_path, "features", long_side=64)
    assert len(load_features(tmp_path).latents) == len(load_photos(shards, tmp_path, 64).pixels)


def test_a_spent_budget_trains_no_further(photos: Photos, tmp_path: Path) -> None:
    features = _features(len(photos.pixels), 8)
    train_denoiser(features, photos, tmp_path, Budget(steps=2), Course(2, 1, RHYTHM))
    before = (tmp_path / "denoiser.safetensors").read_bytes()
    train_denoiser(features, photos, tmp_path, Budget(steps=2), Course(2, 1, RHYTHM))
    assert (tmp_path / "denoiser.safetensors").read_bytes() == before


def test_the_journal_has_a_line_of_losses_for_every_logged_step(photos: Photos, tmp_path: Path) -> None:
    features = _features(len(photos.pixels), 8)
    train_denoiser(features, photos, tmp_path, Budget(steps=4), Course(2, 1, RHYTHM))
    rows = [json.loads(line) for line in (tmp_path / "denoiser.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["total"]) for row in rows) and "held_out" in rows[-1]
